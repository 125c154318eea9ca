"""The report in a browser: a real recording, 100,000 events, hostile names, light and dark, a phone, a keyboard."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cases.cli import pylsm

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install -e '.[test]'")
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="needs a browser: apt-get install chromium chromium-driver (tools/test does)",
)
#: What Chromium needs as root and without a way to the outside.
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
HOSTILE = (
    b"<script>window.owned=1</script>",
    b"'\"><img src=x onerror=window.owned=1>",
    b"<svg onload=window.owned=1>",
    b"\x1b]0;owned\x07",
    "\u202egnp.exe".encode(),
    b"\xff\xfe",
)
SHOWN = (r"\x1b]0;owned\x07", r"\xe2\x80\xaegnp.exe", r"\xff\xfe")


class Browser:
    """A page in headless Chromium."""

    def __init__(self) -> None:
        self._profile = tempfile.TemporaryDirectory()
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in (*FLAGS, f"--user-data-dir={self._profile.name}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))

    def look(self, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """How wide the screen is, and what the system prefers."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        prefers = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": prefers})

    def open(self, path: Path) -> None:
        self.driver.get(path.as_uri())
        self.until(lambda: self.run("return document.documentElement.dataset.ready") == "yes")

    def until(self, true: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 60
        while not true():
            assert time.monotonic() < deadline, self.driver.get_log("browser")
            time.sleep(0.02)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def on(self, selector: str, do: Callable[[Any], Any]) -> Any:
        """What `do` gives for the element. The page draws itself anew at any time: one that has gone is found again."""
        deadline = time.monotonic() + 60
        while True:
            try:
                return do(self.driver.find_element(By.CSS_SELECTOR, selector))
            except StaleElementReferenceException:
                assert time.monotonic() < deadline, selector

    def keys(self, selector: str, *keys: str) -> None:
        self.on(selector, lambda element: element.send_keys(*keys))

    def click(self, selector: str) -> None:
        self.on(selector, lambda element: element.click())

    def attribute(self, selector: str, name: str) -> Any:
        return self.on(selector, lambda element: element.get_attribute(name))

    def shown(self, selector: str) -> bool:
        return bool(self.on(selector, lambda element: element.is_displayed()))

    def text(self, selector: str = "body") -> str:
        return str(self.run("return document.querySelector(arguments[0]).innerText", selector))

    def press(self, *keys: str) -> None:
        self.keys(":focus", *keys)

    def tab(self, name: str) -> None:
        self.run("document.getElementById('tab-' + arguments[0]).click()", name)

    def search(self, text: str) -> None:
        self.run(
            "const q = document.getElementById('query'); q.value = arguments[0]; q.dispatchEvent(new Event('input'))",
            text,
        )
        self.until(
            lambda: self.run(
                "return document.querySelectorAll('.row').length + document.querySelectorAll('.nothing').length"
            )
        )
        time.sleep(0.4)

    def close(self) -> None:
        self.driver.quit()
        self._profile.cleanup()


@pytest.fixture(scope="module")
def shared_browser() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def browser(shared_browser: Browser) -> Iterator[Browser]:
    shared_browser.look()
    yield shared_browser
    severe = [entry for entry in shared_browser.driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a real recording, in which files with hostile names are written and read."""
    folder = tmp_path_factory.mktemp("real")
    names = folder / "names"
    names.mkdir()
    for name in HOSTILE:
        (names / os.fsdecode(name.replace(b"/", b"_"))).write_bytes(b"x")
    log, report = folder / "events.jsonl", folder / "report.html"
    script = (
        f"cd '{names}'; cat ./* >../all; for n in 1 2 3; do (cat /etc/hosts >/dev/null); done; : </dev/tcp/127.0.0.1/9"
    )
    command = ["bash", "-c", script]
    recorded = pylsm("run", "-q", "--format", "json", "--heartbeat", "5", "-o", log, "--", *command)
    assert log.stat().st_size, recorded.stderr
    made = pylsm("report", log, "-o", report)
    assert (made.returncode, made.stderr) == (0, "")
    return report


def simulated(path: Path, events: int) -> None:
    """A recording like that of a package manager at work."""
    choice = random.Random(3)
    with path.open("w") as file:
        for number in range(events):
            pid = 100 + number // 2000
            line: dict[str, Any] = {
                "version": 1,
                "event": "open",
                "time_ns": 1_700_000_000_000_000_000 + number * 400_000,
                "pid": pid,
                "cpu": number % 2,
                "sequence": number // 2,
                "comm": f"work{pid}",
            }
            if number % 997 == 0:
                line.update(event="connect", dst_ip=f"203.0.{number % 7}.{number % 50}", dport=443, family="ipv4")
            else:
                folder = f"/srv/app/module{choice.randrange(300)}/lib"
                line.update(path=f"{folder}/file{number}.js", mode="w" if number % 5 == 0 else "r", inode=number)
            file.write(json.dumps(line) + "\n")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    simulated(folder / "events.jsonl", 100_000)
    assert pylsm("report", folder / "events.jsonl", "-o", folder / "report.html").returncode == 0
    return folder / "report.html"


@pytest.mark.root
def test_a_real_recording(browser: Browser, real: Path) -> None:
    browser.open(real)
    assert "Nothing is missing." in browser.text("#state")
    assert "127.0.0.1" not in browser.text("#panel"), "loopback is not the public internet"
    browser.tab("destinations")
    assert "loopback" in browser.text("#panel") and "127.0.0.1:9" in browser.text("#panel")
    browser.tab("processes")
    assert "cat" in browser.text("#panel")
    browser.tab("files")
    browser.search("names/")
    shown = browser.text("#panel")
    for name in SHOWN:
        assert name in shown
    assert "<script>window.owned=1<" in shown.replace("\n", "") or "<script>window.owned=1" in shown


@pytest.mark.root
def test_hostile_names_stay_text(browser: Browser, real: Path) -> None:
    browser.open(real)
    for tab in ("overview", "processes", "destinations", "files", "events"):
        browser.tab(tab)
        browser.search("owned")
        for row in range(3):
            browser.run("const r = document.querySelectorAll('.row, .line')[arguments[0]]; if (r) r.click()", row)
        browser.search("")
    assert browser.run("return window.owned") is None
    assert (
        browser.run("return document.querySelectorAll('#report img, #report svg[onload], #report script').length") == 0
    )
    assert browser.driver.title == "events.jsonl · pylsm report"
    assert browser.run("return performance.getEntriesByType('resource').length") == 0


@pytest.mark.root
def test_a_script_that_is_not_ours_does_not_run(shared_browser: Browser, real: Path, tmp_path: Path) -> None:
    """Even if a name became markup, the page's policy would not let it run."""
    page = tmp_path / "page.html"
    evil = "<script>window.owned=1</script><img src=x onerror=window.owned=1>"
    page.write_text(real.read_text().replace('<main class="wide">', f'{evil}<main class="wide">'))
    shared_browser.look()
    shared_browser.open(page)
    assert shared_browser.run("return window.owned") is None
    refused = [entry["message"] for entry in shared_browser.driver.get_log("browser")]
    assert sum("Content Security Policy" in message for message in refused) >= 2
    page.write_text(page.read_text().replace("Content-Security-Policy", "X-Nothing"))
    shared_browser.open(page)
    assert shared_browser.run("return window.owned") == 1, "without the policy it would have"
    shared_browser.driver.get_log("browser")


def test_a_hundred_thousand_events(browser: Browser, many: Path) -> None:
    browser.open(many)
    assert "100,000" in browser.text("#tab-events")
    for tab in ("processes", "destinations", "files", "events"):
        browser.tab(tab)
        rows = browser.run("return document.querySelectorAll('.row').length")
        assert 0 < rows < 120, tab
    browser.run("document.querySelectorAll('.tools .chip')[1].click()")
    browser.run("scrollTo(0, document.body.scrollHeight)")
    browser.until(lambda: "file99999.js" in browser.text("#panel"))
    assert browser.run("return document.querySelectorAll('.row').length") < 120
    browser.search("file54321.js")
    browser.until(lambda: browser.text("#found") == "1 of 100,000 events")
    assert "file54321.js" in browser.text("#panel")
    browser.search("no such name")
    assert "Nothing that was recorded fits." in browser.text("#panel")


def test_the_keyboard_reaches_everything(browser: Browser, many: Path) -> None:
    browser.open(many)
    browser.keys("#tab-overview", Keys.ARROW_RIGHT)
    browser.until(lambda: browser.run("return document.activeElement.id") == "tab-processes")
    browser.until(lambda: browser.attribute("#tab-processes", "aria-selected") == "true")
    browser.press("5")
    browser.until(lambda: browser.attribute("#tab-events", "aria-selected") == "true")
    browser.press("/")
    browser.until(lambda: browser.run("return document.activeElement.id") == "query")
    browser.press("module7/")
    browser.until(lambda: " of 100,000 events" in browser.text("#found"))
    browser.press(Keys.ARROW_DOWN)
    active = (
        "return (document.getElementById(document.activeElement.getAttribute('aria-activedescendant')) || {}).innerText"
    )
    browser.until(lambda: "module7/" in (browser.run(active) or ""))
    first = browser.run(active)
    browser.press(Keys.END)
    browser.until(lambda: browser.run(active) and browser.run(active) != first)
    inside = (
        "const r = document.querySelector('.row.active').getBoundingClientRect();"
        "return r.top >= 0 && r.bottom <= innerHeight"
    )
    browser.until(lambda: browser.run(inside))
    browser.press(Keys.ENTER)
    browser.until(lambda: browser.shown("#drawer"))
    browser.until(lambda: "module7/" in browser.text("#drawer"))
    browser.press(Keys.ESCAPE)
    browser.until(lambda: not browser.shown("#drawer"))
    browser.until(lambda: browser.run("return document.activeElement.className") == "rows")
    browser.run("document.getElementById('query').value = ''")
    browser.search("")
    browser.tab("files")
    browser.keys(".rows", Keys.HOME)
    before = browser.run("return document.querySelector('.rows').style.height")
    browser.press(Keys.ARROW_LEFT)
    browser.until(lambda: browser.run("return document.querySelector('.rows').style.height") != before)
    browser.until(lambda: browser.attribute(".row.active", "aria-expanded") == "false")
    browser.press(Keys.ARROW_RIGHT)
    browser.until(lambda: browser.run("return document.querySelector('.rows').style.height") == before)
    browser.keys("#histogram", Keys.ARROW_RIGHT)
    browser.until(lambda: browser.text("#found").endswith("of 100,000 events"))
    browser.keys("#histogram", Keys.ESCAPE)
    browser.until(lambda: browser.text("#found") == "")


def test_a_part_of_the_time_and_a_process_can_be_chosen(browser: Browser, many: Path) -> None:
    browser.open(many)
    area = browser.on("#histogram", lambda element: element)
    actions = webdriver.ActionChains(browser.driver)
    actions.move_to_element_with_offset(area, -100, 0).click_and_hold().move_by_offset(60, 0).release().perform()
    browser.until(lambda: browser.text("#found").endswith("of 100,000 events"))
    chosen = browser.text("#found")
    assert 0 < int(chosen.split()[0].replace(",", "")) < 20_000
    browser.click("#chips .chip")
    browser.until(lambda: browser.text("#found") == "")
    browser.tab("processes")
    browser.click(".row")
    browser.click("#drawer .acts button")
    browser.until(lambda: browser.text("#found") == "2,000 of 100,000 events")


def luminance(colour: str) -> float:
    channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_light_and_dark_can_be_read(browser: Browser, many: Path, dark: bool) -> None:
    """Text has the contrast that WCAG 2.2 asks for (1.4.3: 4.5 to 1)."""
    browser.look(dark=dark)
    browser.open(many)
    background = "return getComputedStyle(document.body).backgroundColor"
    assert (luminance(browser.run(background)) < 0.1) is dark
    for tab, parts in (
        (
            "overview",
            ("h1", ".when", ".state b", ".tile .label", ".tile .number", ".line .n", ".line .c", ".card p.why"),
        ),
        ("events", (".row .t", ".row .name", ".row .kind", ".head", ".found")),
        ("destinations", (".row .pub", ".row .num", ".row .dim")),
    ):
        browser.tab(tab)
        for part in parts:
            colours = browser.run(
                "let e = document.querySelector(arguments[0]); const ink = getComputedStyle(e).color; let under;"
                "do { under = getComputedStyle(e).backgroundColor; e = e.parentElement } while (/, 0\\)/.test(under));"
                "return [ink, under]",
                part,
            )
            light, shade = sorted(map(luminance, colours), reverse=True)
            assert (light + 0.05) / (shade + 0.05) >= 4.5, (tab, part, colours)
    browser.run("document.getElementById('theme').click()")
    assert (luminance(browser.run(background)) < 0.1) is False
    browser.run("document.getElementById('theme').click()")
    assert (luminance(browser.run(background)) < 0.1) is True


def test_on_a_phone_nothing_sticks_out(browser: Browser, many: Path) -> None:
    browser.look(390, 844)
    browser.open(many)
    for tab in ("overview", "processes", "destinations", "files", "events"):
        browser.tab(tab)
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth"), tab
    assert browser.run("return document.querySelector('.row').getBoundingClientRect().height") >= 44, "a finger's width"


def test_a_page_that_is_cut_off_says_so(shared_browser: Browser, many: Path, tmp_path: Path) -> None:
    text = many.read_text()
    at = text.index('id="data">') + 50_000
    page = tmp_path / "cut.html"
    page.write_text(text[:at] + text[text.rindex("</script>\n<script>") :])
    shared_browser.driver.get(page.as_uri())
    shared_browser.until(lambda: "Its data is damaged" in shared_browser.text("#state"))
    shared_browser.driver.get_log("browser")
