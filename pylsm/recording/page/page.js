"use strict";
// The report's own script, and the only one its policy lets run. Names come from processes that may be hostile: they are
// put on the page as text (textContent), never as markup.
(async () => {
  const READ = 1, WRITE = 2, NET = 4, RUN = 8, OTHER = 16;
  const $ = (id) => document.getElementById(id);
  const el = (tag, names, text) => {
    const made = document.createElement(tag);
    if (names) made.className = names;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const svg = (tag, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const name in attributes) made.setAttribute(name, attributes[name]);
    return made;
  };
  const count = (n) => n.toLocaleString("en-US");
  const many = (n, what) => `${count(n)} ${what}${n === 1 ? "" : "s"}`;

  // --- data -----------------------------------------------------------------------------------------------------------
  async function inflate(text) {
    const raw = atob(text.trim());
    const bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }
  const fail = (why) => {
    const said = el("p", "state bad");
    said.append(el("b", "", "The report cannot be shown."), " " + why);
    $("state").replaceChildren(said);
  };
  if (typeof DecompressionStream === "undefined") return fail("It needs a browser of 2023 or later.");
  let data;
  try {
    data = await inflate($("data").textContent);
  } catch (error) {
    return fail("Its data is damaged: was the file cut off?");
  }
  const N = data.count;
  const T = Float64Array.from(data.t), P = Int32Array.from(data.p), C = Int32Array.from(data.c), K = Int32Array.from(data.k);
  const S = Int32Array.from(data.s), O = Uint8Array.from(data.o), D = Int32Array.from(data.d);
  const texts = data.texts, kinds = data.kinds, subjects = data.subjects, processes = data.processes;
  for (const name of ["t", "p", "c", "k", "s", "o", "d"]) delete data[name];
  const order = new Uint32Array(N);
  let sorted = true;
  for (let i = 0; i < N; i++) { order[i] = i; if (i && T[i] < T[i - 1]) sorted = false; }
  if (!sorted) order.sort((a, b) => T[a] - T[b] || a - b);
  const more = new Map(); // event → further things it touched
  for (const [i, s, o] of data.second) more.has(i) ? more.get(i).push([s, o]) : more.set(i, [[s, o]]);
  const end = N ? T[order[N - 1]] : 0;
  const PID = 0, PARENT = 1, FIRST = 2, LAST = 3, NAME = 4, LINE = 5, EXIT = 6, UID = 7;
  const detailOf = (i) => {
    const parts = data.details[D[i]].split("\t"), pairs = [];
    for (let k = 0; k + 1 < parts.length; k += 2) pairs.push([parts[k], parts[k + 1]]);
    return pairs;
  };
  const touchesOf = (i) => (S[i] < 0 ? [] : [[S[i], O[i]]]).concat(more.get(i) || []);

  // --- times ----------------------------------------------------------------------------------------------------------
  const pad = (n, width) => String(n).padStart(width, "0");
  function offset(us) {
    if (end < 60e6) return "+" + (us / 1e6).toFixed(end < 10e6 ? 4 : 3);
    const s = Math.floor(us / 1e6), h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;
    return "+" + (end >= 3600e6 ? h + ":" + pad(m, 2) : m) + ":" + pad(s % 60, 2) + "." + pad(Math.floor(us / 1e3) % 1000, 3);
  }
  function length(us) {
    if (us < 1e3) return us.toFixed(0) + " µs";
    if (us < 1e6) return (us / 1e3).toFixed(us < 1e4 ? 1 : 0) + " ms";
    if (us < 120e6) return (us / 1e6).toFixed(us < 10e6 ? 2 : 1) + " s";
    if (us < 7200e6) return Math.floor(us / 60e6) + " min " + Math.floor((us / 1e6) % 60) + " s";
    return Math.floor(us / 3600e6) + " h " + Math.floor((us / 60e6) % 60) + " min";
  }
  const clock = (us) => {
    const date = new Date((data.from + us) / 1e3);
    return isNaN(date) ? "time unknown" : date.toISOString().replace("T", " ").replace("Z", " UTC");
  };

  // --- what an event does ---------------------------------------------------------------------------------------------
  const doing = (o) => (o & NET ? "net" : o & WRITE ? "write" : o & RUN ? "run" : o & OTHER ? "other" : o & READ ? "read" : "run");
  const words = (i) => {
    const kind = kinds[K[i]], o = O[i];
    if (kind === "open") return o & WRITE ? (o & READ ? "read, write" : "write") : "read";
    return kind;
  };
  const processName = (p) => texts[processes[p][NAME]] || "?";
  const processLine = (p) => texts[processes[p][LINE]] || processName(p);

  // --- what is chosen -------------------------------------------------------------------------------------------------
  const chosen = { tab: "overview", query: "", process: -1, from: 0, to: end, once: true, written: false, item: -1 };
  let selected = order; // events, by their time
  const matching = { subject: null, text: null, process: null, kind: null };
  const children = processes.map(() => []);
  const roots = [];
  processes.forEach((process, p) => (process[PARENT] < 0 ? roots : children[process[PARENT]]).push(p));

  function descendants(p) {
    const inside = new Uint8Array(processes.length), todo = [p];
    while (todo.length) { const q = todo.pop(); inside[q] = 1; todo.push(...children[q]); }
    return inside;
  }
  function choose() {
    const needle = chosen.query.trim().toLowerCase();
    const hit = (text) => (text.toLowerCase().includes(needle) ? 1 : 0);
    if (needle) {
      matching.subject = Uint8Array.from(subjects, (s) => hit(s[1]) || (s[0] === "run" && s[2] ? hit(s[2]) : 0) || (s[0] === "host" ? hit(s[2] + " " + s[3]) : 0));
      matching.text = Uint8Array.from(texts, hit);
      matching.kind = Uint8Array.from(kinds, hit);
      matching.process = Uint8Array.from(processes, (q) => (matching.text[q[LINE]] || String(q[PID]) === needle ? 1 : 0));
    }
    const family = chosen.process >= 0 ? descendants(chosen.process) : null;
    const whole = chosen.from <= 0 && chosen.to >= end;
    if (!needle && !family && whole && chosen.item < 0) { selected = order; return; }
    const kept = [];
    for (let at = 0; at < N; at++) {
      const i = order[at];
      if (!whole && (T[i] < chosen.from || T[i] > chosen.to)) continue;
      if (family && !family[P[i]]) continue;
      const further = more.get(i);
      if (chosen.item >= 0 && S[i] !== chosen.item && !(further && further.some(([s]) => s === chosen.item))) continue;
      if (needle && !(S[i] >= 0 && matching.subject[S[i]]) && !matching.text[C[i]] && !matching.kind[K[i]] && !matching.process[P[i]]
          && !(further && further.some(([s]) => matching.subject[s]))) continue;
      kept.push(i);
    }
    selected = Uint32Array.from(kept);
  }

  // What the chosen events touched: thing → how often it was read, written, …; its first and last time; who.
  let known = null, knownOf = null;
  function things() {
    if (knownOf === selected) return known;
    const found = new Map();
    known = found;
    knownOf = selected;
    for (const i of selected) {
      for (const [s, o] of touchesOf(i)) {
        let thing = found.get(s);
        if (!thing) { thing = { s, reads: 0, writes: 0, times: 0, first: T[i], last: T[i], who: new Set(), does: 0 }; found.set(s, thing); }
        thing.times++;
        thing.does |= o;
        if (o & READ) thing.reads++;
        if (o & WRITE) thing.writes++;
        thing.last = T[i];
        if (thing.who.size < 50) thing.who.add(P[i]);
      }
    }
    return found;
  }

  // --- lists of any length: only rows that are seen are on the page ------------------------------------------------------
  class List {
    constructor(name, role, heads) {
      this.root = el("div", "list " + name);
      const head = el("div", "head");
      for (const [text, names] of heads) head.append(el("span", names, text));
      this.rows = el("div", "rows");
      this.rows.tabIndex = 0;
      this.rows.setAttribute("role", role);
      this.root.append(head, this.rows);
      this.role = role === "tree" ? "treeitem" : "option";
      this.count = 0;
      this.active = -1;
      this.rows.addEventListener("keydown", (event) => this.key(event));
      // Not by a click: rows that are made anew between its two halves would swallow it.
      this.rows.addEventListener("focus", () => { if (this.active < 0 && this.count && this.rows.matches(":focus-visible")) { this.active = 0; this.draw(); } });
      this.rows.addEventListener("click", (event) => {
        const row = event.target.closest(".row");
        if (!row) return;
        this.active = Number(row.dataset.at);
        if (event.target.closest(".twist")) this.turn(this.active, 0);
        else this.open(this.active);
        this.draw();
      });
    }
    fill(total, make) {
      this.count = total;
      this.make = make;
      this.active = Math.min(this.active, total - 1);
      this.height = parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--row")) || 30;
      this.rows.style.height = total * this.height + "px";
      this.draw();
    }
    draw() {
      if (!this.root.isConnected || !this.count) { this.rows.replaceChildren(); return; }
      const top = this.rows.getBoundingClientRect().top;
      const first = Math.max(0, Math.floor(-top / this.height) - 8);
      const last = Math.min(this.count, Math.ceil((innerHeight - top) / this.height) + 8);
      const made = document.createDocumentFragment();
      for (let at = first; at < last; at++) {
        const row = this.make(at);
        row.classList.add("row");
        row.id = "row" + at;
        row.dataset.at = at;
        row.style.top = at * this.height + "px";
        row.setAttribute("role", this.role);
        row.setAttribute("aria-setsize", this.count);
        row.setAttribute("aria-posinset", at + 1);
        if (at === this.active) { row.classList.add("active"); row.setAttribute("aria-selected", "true"); }
        made.append(row);
      }
      this.rows.replaceChildren(made);
      if (this.active >= first && this.active < last) this.rows.setAttribute("aria-activedescendant", "row" + this.active);
      else this.rows.removeAttribute("aria-activedescendant");
    }
    key(event) {
      const page = Math.max(1, Math.floor((innerHeight - 160) / this.height));
      const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -this.count, End: this.count };
      if (event.key in steps) {
        this.active = Math.max(0, Math.min(this.count - 1, this.active + steps[event.key]));
        this.show();
      } else if (event.key === "ArrowRight" || event.key === "ArrowLeft") this.turn(this.active, event.key === "ArrowRight" ? 1 : -1);
      else if (event.key === "Enter" || event.key === " ") this.open(this.active);
      else return;
      event.preventDefault();
      this.draw();
    }
    show() {
      const y = this.rows.getBoundingClientRect().top + this.active * this.height, above = $("bar").offsetHeight + 8;
      if (y < above) scrollBy(0, y - above);
      else if (y + this.height > innerHeight - 8) scrollBy(0, y + this.height - innerHeight + 8);
    }
    turn() {}
    open() {}
  }
  let list = null; // the one that is shown
  let pending = false;
  const redraw = () => {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => { pending = false; if (list) list.draw(); });
  };
  addEventListener("scroll", redraw, { passive: true });
  addEventListener("resize", () => { if (list) list.fill(list.count, list.make); });

  // A name, with what is searched for marked in it.
  function named(names, text) {
    const made = el("span", names);
    const needle = chosen.query.trim().toLowerCase(), at = needle ? text.toLowerCase().indexOf(needle) : -1;
    if (at < 0 || text.toLowerCase().length !== text.length) made.textContent = text;
    else made.append(text.slice(0, at), el("mark", "", text.slice(at, at + needle.length)), text.slice(at + needle.length));
    made.title = text;
    return made;
  }
  function nothing() {
    const said = el("div", "list nothing", "Nothing that was recorded fits.");
    $("panel").replaceChildren(said);
    list = null;
  }
  const tail = (items, most, show) => {
    const shown = items.slice(0, most).map(show).join(", ");
    return items.length > most ? `${shown} and ${items.length - most} more` : shown;
  };
  const whoNames = (who) => [...new Set([...who].map(processName))];

  // --- the drawer: one thing in full --------------------------------------------------------------------------------------
  let before = null;
  function drawer(title, rows, acts, further) {
    before = before || document.activeElement;
    $("drawertitle").textContent = title;
    const body = $("drawerbody"), facts = el("dl");
    for (const [name, value] of rows) if (value !== "" && value !== null && value !== undefined) facts.append(el("dt", "", name), el("dd", "", String(value)));
    const buttons = el("div", "acts");
    for (const [text, act] of acts) {
      const button = el("button", "quiet", text);
      button.type = "button";
      button.addEventListener("click", () => { shut(); act(); });
      buttons.append(button);
    }
    body.replaceChildren(facts, buttons);
    if (further) body.append(further);
    $("drawer").hidden = false;
    $("close").focus();
  }
  function shut() {
    if ($("drawer").hidden) return;
    $("drawer").hidden = true;
    if (before && before.isConnected) before.focus({ preventScroll: true });
    before = null;
  }
  $("close").addEventListener("click", shut);

  const aboutEvent = (i) => drawer(S[i] >= 0 ? subjects[S[i]][1] : kinds[K[i]],
    [["event", kinds[K[i]]], ["what", words(i) === kinds[K[i]] ? "" : words(i)], ["time", clock(T[i])], ["since start", offset(T[i])],
     ["process", `${processName(P[i])} (${processes[P[i]][PID]})`], ["thread name", texts[C[i]]],
     ["command", S[i] >= 0 && subjects[S[i]][0] === "run" ? subjects[S[i]][2] || "" : ""],
     ["network", S[i] >= 0 && subjects[S[i]][0] === "host" ? `${subjects[S[i]][3]} (${subjects[S[i]][2]})` : ""],
     ...detailOf(i)],
    [["Only this process", () => setProcess(P[i])], ...(S[i] >= 0 ? [["All events of this", () => setItem(S[i])]] : [])]);
  const aboutThing = (thing) => {
    const [kind, name, scope, network] = subjects[thing.s];
    const host = kind === "host";
    drawer(name, [["kind", host ? "destination" : kind], ["command", kind === "run" ? scope || "" : ""], ["network", host ? `${network} (${scope})` : ""], ["read", thing.reads ? many(thing.reads, "time") : ""],
      ["written", thing.writes ? many(thing.writes, "time") : ""], ["events", count(thing.times)],
      ["first seen", `${offset(thing.first)}  ${clock(thing.first)}`], ["last seen", `${offset(thing.last)}  ${clock(thing.last)}`],
      ["by", tail([...thing.who], 12, (p) => `${processName(p)} (${processes[p][PID]})`)]],
      [["All events of this", () => setItem(thing.s)], ...(thing.who.size === 1 ? [["Only this process", () => setProcess([...thing.who][0])]] : [])]);
  };
  const aboutProcess = (p) => {
    const process = processes[p];
    drawer(processLine(p), [["pid", process[PID]], ["name", processName(p)], ["parent", process[PARENT] >= 0 ? `${processName(process[PARENT])} (${processes[process[PARENT]][PID]})` : "not recorded"],
      ["uid", process[UID]], ["first event", `${offset(process[FIRST])}  ${clock(process[FIRST])}`], ["last event", `${offset(process[LAST])}  ${clock(process[LAST])}`],
      ["exit", process[EXIT]], ["children", children[p].length || ""]],
      [["Only this process and its children", () => setProcess(p)]]);
  };

  // --- views ----------------------------------------------------------------------------------------------------------
  function eventsView() {
    const tools = el("div", "tools");
    const once = el("button", "chip", "Each thing once, as first seen"), all = el("button", "chip", "Every event");
    for (const [button, value] of [[once, true], [all, false]]) {
      button.type = "button";
      button.setAttribute("aria-pressed", String(chosen.once === value));
      button.addEventListener("click", () => { chosen.once = value; show(); });
    }
    tools.append(once, all);
    let rows = selected;
    if (chosen.once) {
      const seen = new Set();
      rows = selected.filter((i) => {
        const key = S[i] < 0 ? -1 - i : S[i] * 32 + O[i];
        if (seen.has(key)) return false;
        seen.add(key);
        return true;
      });
    }
    if (!rows.length) return nothing();
    list = new List("events", "listbox", [["time, s", ""], ["process", ""], ["what", ""], ["name", ""]]);
    if (end >= 60e6) list.root.querySelector(".head span").textContent = "time";
    list.rows.setAttribute("aria-label", "Events");
    list.open = (at) => aboutEvent(rows[at]);
    $("panel").replaceChildren(tools, list.root);
    list.fill(rows.length, (at) => {
      const i = rows[at], row = el("div");
      const who = named("", texts[C[i]] || processName(P[i]));
      who.append(el("span", "faint", "  " + processes[P[i]][PID]));
      row.append(el("span", "t", offset(T[i])), who, el("span", "kind " + doing(O[i]), words(i)), named("name", S[i] >= 0 ? (subjects[S[i]][0] === "run" && subjects[S[i]][2]) || subjects[S[i]][1] : detailText(i)));
      return row;
    });
  }
  const detailText = (i) => detailOf(i).filter(([name]) => name !== "uid" && name !== "gid").map(([name, value]) => `${name} ${value}`).join("  ");

  // A view once more, the same row active: what is below it has been opened or closed.
  function again(view, at) {
    view();
    if (!list) return;
    list.active = Math.min(at, list.count - 1);
    list.rows.focus({ preventScroll: true });
    list.draw();
  }

  const folded = new Set();
  function processesView() {
    const own = processes.map(() => ({ events: 0, net: 0, writes: 0, reads: 0, ticks: [], lines: [] }));
    for (const i of selected) {
      const it = own[P[i]], o = O[i];
      it.events++;
      if (o & NET) it.net++;
      if (o & WRITE) it.writes++;
      else if (o & READ) it.reads++;
      if (o & (NET | WRITE | RUN)) {
        const marks = o & NET ? it.lines : it.ticks; // connections on top of all others
        if (marks.length < 40) marks.push([T[i], doing(o)]);
        else if (i % 7 === 0) marks[i % 40] = [T[i], doing(o)];
      }
    }
    const wanted = own.map((it) => it.events > 0);
    const narrowed = selected !== order;
    if (narrowed) processes.forEach((_, p) => { if (own[p].events) for (let q = processes[p][PARENT]; q >= 0 && !wanted[q]; q = processes[q][PARENT]) wanted[q] = true; });
    else wanted.fill(true);
    const rows = [], todo = roots.slice().reverse().map((p) => [p, 0]);
    while (todo.length) {
      const [p, depth] = todo.pop();
      if (!wanted[p]) continue;
      const below = children[p].filter((q) => wanted[q]);
      rows.push({ p, depth, below: below.length });
      if (!folded.has(p)) for (let k = below.length - 1; k >= 0; k--) todo.push([below[k], depth + 1]);
    }
    if (!rows.length) return nothing();
    list = new List("processes", "tree", [["process", ""], ["pid", "num"], ["exit", ""], ["touched", ""], ["life, with what it did", ""]]);
    list.rows.setAttribute("aria-label", "Processes");
    list.open = (at) => aboutProcess(rows[at].p);
    list.turn = (at, way) => {
      const row = rows[at];
      if (!row) return;
      const open = !folded.has(row.p);
      if (way < 0 && (!open || !row.below)) {
        for (let k = at - 1; k >= 0; k--) if (rows[k].depth < row.depth) { list.active = k; list.show(); break; }
        return;
      }
      if (!row.below || (way > 0 && open)) return;
      open ? folded.add(row.p) : folded.delete(row.p);
      again(processesView, at);
    };
    $("panel").replaceChildren(list.root);
    list.fill(rows.length, (at) => {
      const { p, depth, below } = rows[at], process = processes[p], it = own[p], row = el("div");
      row.setAttribute("aria-level", depth + 1);
      if (below) row.setAttribute("aria-expanded", String(!folded.has(p)));
      const name = el("span", "tree name");
      name.style.paddingLeft = Math.min(depth, 24) * 15 + "px";
      name.append(el("span", "twist", below ? (folded.has(p) ? "▶" : "▼") : ""), named("", processLine(p)));
      const counts = el("span", "counts");
      if (it.net) counts.append(counted("cn", it.net, "⇄"));
      if (it.writes) counts.append(counted("cw", it.writes, "✎"));
      if (it.reads) counts.append(counted("", it.reads, "read"));
      const gantt = el("span", "gantt"), life = el("span", "life");
      const x = (t) => (end ? (100 * t) / end : 0);
      life.style.left = Math.min(x(process[FIRST]), 99.5) + "%";
      life.style.width = Math.max(0, x(process[LAST]) - x(process[FIRST])) + "%";
      gantt.append(life);
      for (const [t, what] of [...it.ticks, ...it.lines]) { const tick = el("span", "tick " + what); tick.style.left = Math.min(x(t), 99.5) + "%"; gantt.append(tick); }
      const status = process[EXIT];
      row.append(name, el("span", "num", process[PID]), el("span", status && status !== "0" ? "kind write" : "dim", status === null ? "" : status), counts, gantt);
      if (!it.events) row.classList.add("faint");
      return row;
    });
  }
  const counted = (names, n, sign) => {
    const made = el("span", names);
    made.append(el("b", "", count(n)), " " + sign);
    made.title = { "⇄": many(n, "connection"), "✎": many(n, "write"), read: many(n, "read") }[sign];
    return made;
  };

  const SCOPES = ["public", "private", "link-local", "multicast", "loopback", "unknown"];
  function destinationsView() {
    const networks = new Map();
    for (const thing of things().values()) {
      const [kind, , scope, network] = subjects[thing.s];
      if (kind !== "host" && kind !== "address") continue;
      const key = kind === "host" ? scope + " " + network : "listened on";
      if (!networks.has(key)) networks.set(key, { scope: kind === "host" ? scope : "listened on", network: network || "this host", hosts: [], times: 0, first: Infinity, who: new Set() });
      const group = networks.get(key);
      group.hosts.push(thing);
      group.times += thing.times;
      group.first = Math.min(group.first, thing.first);
      thing.who.forEach((p) => group.who.add(p));
    }
    const rank = (group) => (SCOPES.indexOf(group.scope) + 7) % 7;
    const rows = [];
    for (const group of [...networks.values()].sort((a, b) => rank(a) - rank(b) || a.first - b.first)) {
      rows.push({ group });
      group.hosts.sort((a, b) => a.first - b.first).forEach((thing) => rows.push({ thing }));
    }
    if (!rows.length) return nothing();
    list = new List("destinations", "listbox", [["network and destination", ""], ["events", "num"], ["by", ""], ["first seen", "num"]]);
    list.rows.setAttribute("aria-label", "Destinations");
    list.open = (at) => (rows[at].thing ? aboutThing(rows[at].thing) : setQuery(rows[at].group.network));
    $("panel").replaceChildren(list.root);
    list.fill(rows.length, (at) => {
      const { group, thing } = rows[at], row = el("div");
      if (group) {
        const name = el("span", "group");
        name.append(el("span", group.scope === "public" ? "pub" : "dim", group.scope), "  " + group.network);
        row.append(name, el("span", "num", count(group.times)), el("span", "dim", many(group.hosts.length, group.scope === "listened on" ? "address" : "destination").replace("addresss", "addresses")), el("span", "num", offset(group.first)));
      } else {
        const name = named("name", subjects[thing.s][1]);
        name.style.paddingLeft = "16px";
        row.append(name, el("span", "num", count(thing.times)), el("span", "dim", tail(whoNames(thing.who), 4, String)), el("span", "num", offset(thing.first)));
      }
      return row;
    });
  }

  // Files by directory: {name, path, below, reads, writes, first, files, thing}.
  let tree = null, treeOf = null, treeWritten = false;
  function filesTree() {
    if (treeOf === selected && treeWritten === chosen.written) return tree;
    const root = { name: "", path: "", below: new Map(), reads: 0, writes: 0, first: Infinity, files: 0 };
    for (const thing of things().values()) {
      if (subjects[thing.s][0] !== "file" || (chosen.written && !thing.writes)) continue;
      root.files++;
      const parts = subjects[thing.s][1].split("/");
      let at = root;
      parts.forEach((part, k) => {
        const last = k === parts.length - 1;
        if (k === 0 && part === "") return; // the root has no line of its own
        if (k === 1 && parts[0] === "") part = "/" + part;
        const key = last ? "f" + part : "d" + part;
        let node = at.below.get(key);
        if (!node) { node = { name: part, path: at.path + (at.path ? "/" : "") + part, below: last ? null : new Map(), reads: 0, writes: 0, first: Infinity, files: 0, thing: null }; at.below.set(key, node); }
        node.reads += thing.reads; node.writes += thing.writes; node.files++;
        node.first = Math.min(node.first, thing.first);
        if (last) node.thing = thing;
        at = node;
      });
    }
    tree = root;
    treeOf = selected;
    treeWritten = chosen.written;
    return root;
  }

  const opened = new Map(); // folder → open or not, where somebody has turned it
  function filesView() {
    const tools = el("div", "tools");
    const all = el("button", "chip", "All files"), only = el("button", "chip", "Written only");
    for (const [button, value] of [[all, false], [only, true]]) {
      button.type = "button";
      button.setAttribute("aria-pressed", String(chosen.written === value));
      button.addEventListener("click", () => { chosen.written = value; show(); });
    }
    tools.append(all, only);
    const root = filesTree(), total = root.files;
    if (!total) return nothing();
    // Unless somebody has turned them, folders are open from the top down as long as the list stays short.
    const wide = new Set();
    for (let level = [...root.below.values()], lines = level.length; level.length; ) {
      const next = level.filter((node) => node.below).sort((a, b) => a.below.size - b.below.size);
      level = [];
      for (const node of next) {
        if (lines > 3 && lines + node.below.size > (total <= 60 ? Infinity : 40) && node.below.size > 1) continue;
        lines += node.below.size;
        wide.add(node);
        level.push(...node.below.values());
      }
    }
    const isOpen = (node) => (opened.has(node.path) ? opened.get(node.path) : wide.has(node) || (chosen.query && total < 400));
    const rows = [];
    const byName = (a, b) => (a.below ? 0 : 1) - (b.below ? 0 : 1) || (a.name < b.name ? -1 : 1);
    const todo = [...root.below.values()].sort(byName).reverse().map((node) => [node, 0]);
    while (todo.length) {
      let [node, depth] = todo.pop();
      let name = node.name;
      while (node.below && node.below.size === 1) { // a folder with one folder in it shares its line
        const [only] = node.below.values();
        if (!only.below) break;
        name += "/" + only.name;
        node = only;
      }
      const open = node.below && isOpen(node);
      rows.push({ node, name: node.below ? name + "/" : name, depth, open });
      if (open) for (const child of [...node.below.values()].sort(byName).reverse()) todo.push([child, depth + 1]);
    }
    list = new List("files", "tree", [["directory and file", ""], ["reads", "num"], ["writes", "num"], ["first seen", "num"]]);
    list.rows.setAttribute("aria-label", "Files");
    list.turn = (at, way) => {
      const row = rows[at];
      if (!row) return;
      if (way < 0 && !row.open) {
        for (let k = at - 1; k >= 0; k--) if (rows[k].depth < row.depth) { list.active = k; list.show(); break; }
        return;
      }
      if (!row.node.below || (way > 0 && row.open)) return;
      opened.set(row.node.path, !row.open);
      again(filesView, at);
    };
    list.open = (at) => (rows[at].node.below ? list.turn(at, 0) : aboutThing(rows[at].node.thing));
    $("panel").replaceChildren(tools, list.root);
    list.fill(rows.length, (at) => {
      const { node, name, depth, open } = rows[at], row = el("div"), place = el("span", "tree name");
      row.setAttribute("aria-level", depth + 1);
      if (node.below) row.setAttribute("aria-expanded", String(open));
      place.style.paddingLeft = Math.min(depth, 24) * 15 + "px";
      const text = named(node.below ? "" : "", name);
      if (node.below && !open) text.append(el("span", "faint", "  " + many(node.files, "file")));
      place.append(el("span", "twist", node.below ? (open ? "▼" : "▶") : ""), text);
      row.append(place, el("span", "num", node.reads ? count(node.reads) : ""), el("span", "num" + (node.writes ? " kind write" : ""), node.writes ? count(node.writes) : ""), el("span", "num", offset(node.first)));
      return row;
    });
  }

  // Places where secrets are kept; to be looked at first, nothing more.
  const SECRET = /(^|\/)(\.ssh|\.aws|\.gnupg|\.kube|\.azure|\.config\/gcloud|\.docker\/config\.json|\.netrc|\.npmrc|\.pypirc|\.git-credentials|\.env(\.[a-z]+)?|\.vault-token|\.password-store|id_(rsa|dsa|ecdsa|ed25519)|g?shadow-?|sudoers|keyrings?|credentials(\.json)?|secrets?(\.ya?ml|\.json)?|[^/]+\.(pem|key|p12|pfx|kdbx|keytab))($|\/)/;
  const PUBLIC_KEYS = /^\/(etc\/ssl\/certs|usr\/(share|lib|local\/share))\//;
  function overviewView() {
    const found = [...things().values()];
    const of = (kind) => found.filter((thing) => subjects[thing.s][0] === kind);
    const hosts = of("host"), files = of("file");
    const cards = el("div", "cards");
    const card = (title, why, items, show, act, empty, all) => {
      const made = el("section", "card"), head = el("h3", "", title);
      head.append(el("span", "", items.length ? count(items.length) : ""));
      made.append(head, el("p", "why", why));
      if (!items.length) made.append(el("p", "none", empty));
      for (const item of items.slice(0, 8)) {
        const line = el("button", "line"), [name, note] = show(item);
        line.type = "button";
        line.append(named("n", name), el("span", "c", note));
        line.addEventListener("click", () => act(item));
        made.append(line);
      }
      if (items.length > 8 && all) {
        const button = el("button", "quiet all", `All ${count(items.length)}`);
        button.type = "button";
        button.addEventListener("click", all);
        made.append(button);
      }
      cards.append(made);
    };
    const by = (thing) => `${tail(whoNames(thing.who), 2, String)} · ${count(thing.times)}×`;
    const outside = hosts.filter((thing) => subjects[thing.s][2] === "public").sort((a, b) => a.first - b.first);
    card("Destinations on the public internet", "attempts to connect or send, in the order first seen", outside, (thing) => [subjects[thing.s][1], by(thing)], aboutThing,
      hosts.length ? `None. ${many(hosts.length, "destination")} on this host or private networks.` : "None.", () => setTab("destinations"));
    const secret = files.filter((thing) => SECRET.test(subjects[thing.s][1]) && !PUBLIC_KEYS.test(subjects[thing.s][1]) && !/\.pub$/.test(subjects[thing.s][1])).sort((a, b) => a.first - b.first);
    card("Where secrets are often kept", "by name only: .ssh, .aws, .env, shadow, keys and the like", secret, (thing) => [subjects[thing.s][1], (thing.writes ? "written" : "read") + " · " + by(thing)], aboutThing, "None by these names.");
    const folders = new Map();
    for (const thing of files) {
      if (!thing.writes) continue;
      const folder = subjects[thing.s][1].replace(/[^/]*$/, "");
      if (!folders.has(folder)) folders.set(folder, { folder, files: 0, writes: 0, one: thing });
      const it = folders.get(folder);
      it.files++;
      it.writes += thing.writes;
    }
    const written = [...folders.values()].sort((a, b) => b.files - a.files || (a.folder < b.folder ? -1 : 1));
    card("Directories written to", "most files first", written, (it) => [it.files === 1 ? subjects[it.one.s][1] : it.folder, it.files === 1 ? "1 file" : many(it.files, "file")],
      (it) => { if (it.files === 1) aboutThing(it.one); else { chosen.written = true; setQuery(it.folder, "files"); } }, "Nothing was written.", () => { chosen.written = true; setTab("files"); });
    const busy = processes.map((_, p) => ({ p, events: 0 }));
    for (const i of selected) busy[P[i]].events++;
    const programs = new Map();
    for (const { p, events } of busy) {
      if (!events) continue;
      const name = processLine(p).split(" ")[0];
      if (!programs.has(name)) programs.set(name, { name, processes: 0, events: 0, p });
      const it = programs.get(name);
      it.processes++;
      it.events += events;
    }
    const ran = [...programs.values()].sort((a, b) => b.events - a.events);
    card("Programs", "most events first", ran, (it) => [it.name, `${it.processes === 1 ? "1 process" : count(it.processes) + " processes"} · ${many(it.events, "event")}`],
      (it) => (it.processes === 1 ? setProcess(it.p) : setQuery(it.name, "processes")), "None.", () => setTab("processes"));
    const acts = of("other").concat(of("address")).sort((a, b) => a.first - b.first);
    if (acts.length) card("Other acts", "addresses listened on, signals, mounts, modules, …", acts, (thing) => [subjects[thing.s][1], by(thing)], aboutThing, "None.", () => setTab("events"));
    list = null;
    $("panel").replaceChildren(cards);
  }

  // --- the frame: tiles, timeline, search, chips -----------------------------------------------------------------------------
  const everything = things();
  const totals = { hosts: 0, outside: 0, read: 0, written: 0, files: 0 };
  for (const thing of everything.values()) {
    const [kind, , scope] = subjects[thing.s];
    if (kind === "host") { totals.hosts++; if (scope === "public") totals.outside++; }
    if (kind === "file") { totals.files++; if (thing.reads) totals.read++; if (thing.writes) totals.written++; }
  }
  const commands = new Set(processes.map((process) => texts[process[LINE]].split(" ")[0] || texts[process[NAME]])).size;
  const TABS = [
    ["overview", "Overview", "At a glance", "what to look at first", overviewView],
    ["processes", "Processes", count(processes.length), many(commands, "program"), processesView],
    ["destinations", "Destinations", count(totals.hosts), totals.outside ? `${count(totals.outside)} on the public internet` : "none public", destinationsView],
    ["files", "Files", count(totals.files), `${count(totals.read)} read, ${count(totals.written)} written`, filesView],
    ["events", "Events", count(N), "in " + length(end), eventsView],
  ];
  TABS.forEach(([id, label, number, note], k) => {
    const tile = el("button", "tile");
    tile.type = "button";
    tile.id = "tab-" + id;
    tile.setAttribute("role", "tab");
    tile.setAttribute("aria-controls", "panel");
    tile.append(el("span", "label", label), el("span", "number", number), el("span", "more", note));
    tile.addEventListener("click", () => setTab(id));
    tile.addEventListener("keydown", (event) => {
      const way = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!way) return;
      event.preventDefault();
      const next = TABS[(k + way + TABS.length) % TABS.length][0];
      setTab(next);
      $("tab-" + next).focus();
    });
    $("tabs").append(tile);
  });

  const LEGEND = [["net", "connections"], ["write", "writes"], ["run", "programs"], ["other", "other"], ["read", "reads"]];
  for (const [names, text] of LEGEND) {
    const item = el("span");
    item.append(el("i", names), text);
    $("legend").append(item);
  }
  const BINS = 160;
  function histogram() {
    const bins = Array.from({ length: BINS }, () => ({ net: 0, write: 0, run: 0, other: 0, read: 0, all: 0 }));
    for (const i of order) {
      const bin = bins[end ? Math.min(BINS - 1, Math.floor((T[i] / end) * BINS)) : 0];
      bin[doing(O[i])]++;
      bin.all++;
    }
    const most = Math.max(1, ...bins.map((bin) => bin.all));
    // The square root keeps a single connection visible beside a thousand reads.
    const height = (n) => (100 * Math.sqrt(n)) / Math.sqrt(most);
    const drawn = svg("svg", { viewBox: `0 0 ${BINS * 10} 100`, preserveAspectRatio: "none", "aria-hidden": "true" });
    bins.forEach((bin, k) => {
      if (!bin.all) return;
      let y = 100;
      const total = Math.max(5, height(bin.all)), parts = ["read", "other", "run", "write", "net"].filter((name) => bin[name]);
      const scaled = parts.map((name) => Math.max(4, total * (bin[name] / bin.all))), sum = scaled.reduce((a, b) => a + b, 0);
      parts.forEach((name, at) => {
        const h = (scaled[at] * Math.min(100, Math.max(total, sum))) / sum;
        y -= h;
        drawn.append(svg("rect", { class: name, x: k * 10 + 1, y: y.toFixed(2), width: 8, height: h.toFixed(2) }));
      });
    });
    const brush = el("div", "brush");
    brush.id = "brush";
    brush.hidden = true;
    $("histogram").replaceChildren(drawn, brush);
    for (let k = 0; k <= 4; k++) $("axis").append(el("span", "", offset((end * k) / 4)));
  }
  function drawBrush() {
    const whole = chosen.from <= 0 && chosen.to >= end, brush = $("brush");
    brush.hidden = whole;
    $("histogram").setAttribute("aria-label", whole ? `Timeline, ${length(end)}, all chosen` : `Timeline, ${offset(chosen.from)} to ${offset(chosen.to)} chosen`);
    brush.style.left = (100 * chosen.from) / (end || 1) + "%";
    brush.style.width = (100 * (chosen.to - chosen.from)) / (end || 1) + "%";
  }
  {
    const area = $("histogram");
    let from = null;
    const at = (event) => {
      const box = area.getBoundingClientRect();
      return Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)) * end;
    };
    area.addEventListener("pointerdown", (event) => { if (event.button) return; from = at(event); area.setPointerCapture(event.pointerId); });
    area.addEventListener("pointermove", (event) => {
      if (from === null) return;
      const to = at(event);
      chosen.from = Math.min(from, to);
      chosen.to = Math.max(from, to);
      drawBrush();
    });
    const done = (event) => {
      if (from === null) return;
      const to = at(event);
      if (Math.abs(to - from) < end / 300) { chosen.from = 0; chosen.to = end; }
      from = null;
      update();
    };
    area.addEventListener("pointerup", done);
    area.addEventListener("pointercancel", () => { from = null; chosen.from = 0; chosen.to = end; update(); });
    area.addEventListener("keydown", (event) => {
      const step = end / 20, way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape" && (chosen.from > 0 || chosen.to < end)) { chosen.from = 0; chosen.to = end; event.stopPropagation(); }
      else if (!way) return;
      else if (chosen.from <= 0 && chosen.to >= end) { chosen.to = end / 10; if (way < 0) { chosen.from = end - end / 10; chosen.to = end; } }
      else if (event.shiftKey) chosen.to = Math.max(chosen.from + step / 4, Math.min(end, chosen.to + way * step));
      else {
        const wide = chosen.to - chosen.from, start = Math.max(0, Math.min(end - wide, chosen.from + way * step));
        chosen.from = start;
        chosen.to = start + wide;
      }
      event.preventDefault();
      update();
    });
  }

  function setTab(id) { chosen.tab = id; show(); }
  function setProcess(p) { chosen.process = p; chosen.item = -1; if (chosen.tab === "overview") chosen.tab = "events"; update(); }
  function setItem(s) { chosen.item = s; chosen.once = false; chosen.tab = "events"; update(); }
  function setQuery(text, tab) { chosen.query = text; $("query").value = text; if (tab) chosen.tab = tab; update(); }
  function update() { choose(); drawBrush(); show(); }

  function show() {
    for (const [id] of TABS) {
      const on = id === chosen.tab;
      $("tab-" + id).setAttribute("aria-selected", String(on));
      $("tab-" + id).tabIndex = on ? 0 : -1;
    }
    $("panel").setAttribute("aria-labelledby", "tab-" + chosen.tab);
    const chips = [];
    const chip = (text, act) => {
      const made = el("button", "chip", text);
      made.type = "button";
      made.setAttribute("aria-label", `Remove: ${text}`);
      made.addEventListener("click", act);
      chips.push(made);
    };
    if (chosen.process >= 0) chip(`${processName(chosen.process)} (${processes[chosen.process][PID]}) and children`, () => { chosen.process = -1; update(); });
    if (chosen.item >= 0) chip(subjects[chosen.item][1], () => { chosen.item = -1; update(); });
    if (chosen.from > 0 || chosen.to < end) chip(`${offset(chosen.from)} to ${offset(chosen.to)}`, () => { chosen.from = 0; chosen.to = end; update(); });
    $("chips").replaceChildren(...chips);
    $("found").textContent = selected.length === N ? "" : `${count(selected.length)} of ${many(N, "event")}`;
    const stuck = $("bar").getBoundingClientRect().top <= 0;
    TABS.find(([id]) => id === chosen.tab)[4]();
    if (stuck) scrollTo(0, scrollY + $("panel").getBoundingClientRect().top - $("bar").offsetHeight);
    if (list) list.draw();
  }

  let typing = 0;
  $("query").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => { chosen.query = $("query").value; if (chosen.query && chosen.tab === "overview") chosen.tab = "events"; update(); }, N > 20000 ? 160 : 40);
  });
  $("query").addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" && list) { list.rows.focus(); event.preventDefault(); }
    if (event.key === "Escape") { if ($("query").value) { setQuery(""); event.preventDefault(); } else $("query").blur(); event.stopPropagation(); }
  });
  addEventListener("keydown", (event) => {
    const typed = /^(INPUT|TEXTAREA)$/.test(event.target.tagName || "");
    if (event.key === "Escape") shut();
    else if (typed || event.ctrlKey || event.metaKey || event.altKey) return;
    else if (event.key === "/") { $("query").focus(); event.preventDefault(); }
    else if (/^[1-5]$/.test(event.key)) setTab(TABS[Number(event.key) - 1][0]);
  });
  const THEMES = ["auto", "light", "dark"];
  let theme = 0;
  $("theme").addEventListener("click", () => {
    theme = (theme + 1) % 3;
    if (theme) document.documentElement.dataset.theme = THEMES[theme];
    else delete document.documentElement.dataset.theme;
    $("theme").textContent = "Theme: " + THEMES[theme];
  });

  const command = roots.length === 1 ? texts[processes[roots[0]][LINE]] : "";
  $("title").textContent = command.length > 160 ? command.slice(0, 160) + "…" : command || data.source;
  $("when").textContent = `${command ? data.source + " · " : ""}${clock(0).replace(/\.\d+ UTC/, " UTC")} · ${length(end)} · ${many(N, "event")} of ${processes.length === 1 ? "1 process" : count(processes.length) + " processes"}`;
  $("state").replaceChildren(...data.states.map(([level, short, full, particulars]) => {
    const said = el("div", "state " + level);
    said.append(el("b", "", short), " " + full);
    if (particulars.length) {
      const details = el("details"), items = el("ul");
      details.append(el("summary", "", "Particulars"));
      for (const text of particulars) items.append(el("li", "", text));
      details.append(items);
      said.append(details);
    }
    return said;
  }));
  $("report").hidden = false;
  histogram();
  update();
  document.documentElement.dataset.ready = "yes";
})();
