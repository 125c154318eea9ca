"""The published definitions of ECS and OCSF, and whether an event holds them."""

from __future__ import annotations

import ipaddress
import json
import re
import sys
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

#: A part of ECS: the fields that pylsm writes.
ECS = json.loads((Path(__file__).parents[1] / "fixtures/ecs/fields.json").read_text())


def flat(document: dict[str, Any], above: str = "") -> dict[str, Any]:
    fields = {}
    for name, value in document.items():
        if isinstance(value, dict):
            fields.update(flat(value, f"{above}{name}."))
        else:
            fields[above + name] = value
    return fields


def check_ecs(document: dict[str, Any]) -> None:
    """Every field outside our own name space is ECS's, of its type and among its values."""
    kinds = {
        "keyword": lambda v: isinstance(v, str), "wildcard": lambda v: isinstance(v, str),
        "match_only_text": lambda v: isinstance(v, str),
        "long": lambda v: type(v) is int and -(1 << 63) <= v < 1 << 63,
        "ip": lambda v: ipaddress.ip_address(v) is not None,
        "date": lambda v: re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", v),
    }  # fmt: skip
    for name, value in flat({key: value for key, value in document.items() if key != "pylsm"}).items():
        assert name in ECS["fields"], f"ECS {ECS['version']} has no field {name}"
        field = ECS["fields"][name]
        assert isinstance(value, list) == field["array"], name
        for item in value if field["array"] else [value]:
            assert kinds[field["type"]](item), (name, item)
            assert item in field.get("allowed", [item]), (name, item)
    (category,) = document["event"]["category"]
    assert set(document["event"]["type"]) <= set(ECS["fields"]["event.category"]["allowed"][category])


if sys.version_info >= (3, 10):  # as ocsf-json-schema needs
    from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

    RELEASES = {version: OcsfJsonSchemaEmbedded(get_ocsf_schema(version=version)) for version in ("1.5.0", "1.8.0")}
    _validators: dict[tuple[str, int, str], Draft202012Validator] = {}

    def ocsf_validator(event: dict[str, Any], version: str) -> Draft202012Validator:
        profiles = event["metadata"].get("profiles", [])
        key = (version, event["class_uid"], ",".join(profiles))
        if key not in _validators:
            release = RELEASES[version]
            name = release.lookup_class_name_from_uid(class_uid=event["class_uid"])
            _validators[key] = Draft202012Validator(release.get_class_schema(class_name=name, profiles=profiles))
        return _validators[key]
