"""A report is checked again from its file alone; each thing that could be wrong with it is found and placed."""

import copy
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_reports import sample_report

from quantizer_sdk import MissingDependencyError, ReportError
from quantizer_sdk.conformance.figures import FIGURES
from quantizer_sdk.conformance.outcome import CHECKS, Outcome, Status
from quantizer_sdk.conformance.report import LEVELS, SUITE, Report
from quantizer_sdk.conformance.report_file import read_report
from quantizer_sdk.conformance.schema import report_schema, schema_findings
from quantizer_sdk.conformance.verify_report import verify_report

SAMPLE = sample_report(300).to_dict()
PASSING = sample_report(60, statuses=[Status.PASS]).to_dict()


def verify(content, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return verify_report(path)


def entry(content, check):
    return next(e for e in content["outcomes"] if f".{check}/" in e["id"])


@pytest.mark.parametrize(
    "report",
    [
        sample_report(300),
        sample_report(30, statuses=[Status.PASS]),
        sample_report(0),
        sample_report(40, complete=False, flaws=("a waiver is wrong",), selection={"level": "L2"}, profile=None),
    ],
    ids=["all statuses", "passing", "empty", "flawed"],
)
def test_what_the_suite_writes_is_sound(report, tmp_path):
    assert verify(report.to_json(), tmp_path) == []
    assert read_report(tmp_path / "report.json") == report


def test_the_schema_is_a_schema_and_keeps_up_with_the_code():
    from jsonschema import Draft202012Validator

    schema = report_schema()
    Draft202012Validator.check_schema(schema)
    assert list(schema["properties"]) == list(SAMPLE) == schema["required"]
    assert schema["properties"]["suite"]["const"] == SUITE
    parts = schema["$defs"]
    assert parts["status"]["enum"] == [status.value for status in Status]
    assert tuple(parts["level"]["properties"]["level"]["enum"]) == LEVELS
    assert list(parts["outcome"]["properties"]) == list(SAMPLE["outcomes"][0])
    shown = {key: part["description"] for key, part in parts["numbers"]["properties"].items()}
    assert shown == dict(FIGURES)


levels = st.sampled_from([*LEVELS, "L6"])
checks = st.sampled_from([*CHECKS, "K8", "X1"])
rest = st.from_regex(r"(/?[A-Za-z0-9_.,:=+ -]{0,3}){1,3}", fullmatch=True)


@given(st.builds("{}.{}{}".format, levels, checks, rest) | st.sampled_from([case["id"] for case in SAMPLE["outcomes"]]))
def test_the_schema_and_the_outcome_accept_the_same_ids(id_):
    content = copy.deepcopy({**PASSING, "outcomes": [{**PASSING["outcomes"][0], "id": id_}]})
    try:
        Outcome(id=id_, status=Status.PASS)
    except ValueError:
        assert schema_findings(content)
    else:
        assert not schema_findings(content)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("suite",), "quantconf-0", "$.suite: 'quantconf-1' was expected"),
        (("seed",), "17", "$.seed: '17' is not of type 'integer'"),
        (("passed",), 1, "$.passed: 1 is not of type 'boolean'"),
        (("environment",), {"cpu": 3}, "$.environment.cpu: 3 is not of type 'string'"),
        (("outcomes", 3, "status"), "OK", "$.outcomes[3].status: 'OK' is not one of"),
        (("outcomes", 3, "id"), "L3.K3", "$.outcomes[3].id: 'L3.K3' does not match"),
        (("outcomes", 3, "id"), "L2.K3/aten.add", "$.outcomes[3].id: 'L2.K3/aten.add' does not match"),
        (("outcomes", 3, "numbers"), {"elements": -1}, "$.outcomes[3].numbers.elements: -1 is less than"),
        (("outcomes", 3, "numbers"), {"error_histogram": {"+1": 2}}, "$.outcomes[3].numbers.error_histogram"),
        (("outcomes", 3, "color"), "red", "$.outcomes[3]: Additional properties are not allowed"),
        (("extra",), 1, "$: Additional properties are not allowed"),
    ],
)
def test_what_does_not_fit_the_schema_is_found_and_placed(path, value, told, tmp_path):
    content = copy.deepcopy(PASSING)
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert any(told in finding for finding in verify(content, tmp_path))


@pytest.mark.parametrize("key", list(SAMPLE))
def test_every_field_is_required(key, tmp_path):
    content = {name: value for name, value in SAMPLE.items() if name != key}
    assert verify(content, tmp_path) == [f"$: {key!r} is a required property"]


def test_falling_short_takes_a_message(tmp_path):
    content = copy.deepcopy(SAMPLE)
    place, short = next((i, e) for i, e in enumerate(content["outcomes"]) if e["status"] == "FAIL")
    short["message"] = ""
    assert verify(content, tmp_path) == [f"$.outcomes[{place}].message: '' should be non-empty"]


def test_of_a_file_of_another_kind_not_everything_is_told(tmp_path):
    content = {**PASSING, "outcomes": [["x" * 1000]] * 500}
    findings = verify(content, tmp_path)
    assert findings[-1] == "and 450 more like these"
    assert max(map(len, findings)) < 400


def test_cases_out_of_order_and_repeated_ones_are_found(tmp_path):
    content = copy.deepcopy(PASSING)
    content["outcomes"][3], content["outcomes"][4] = content["outcomes"][4], content["outcomes"][3]
    (finding,) = verify(content, tmp_path)
    assert finding.startswith(PASSING["outcomes"][3]["id"])
    assert "sorted by id" in finding
    content["outcomes"][3] = content["outcomes"][4]
    (finding,) = verify(content, tmp_path)
    assert "occurs 2 times" in finding


def test_a_failure_turned_into_a_pass_shows_in_what_is_derived(tmp_path):
    content = sample_report(60, statuses=[Status.PASS, Status.FAIL]).to_dict()
    short = next(e for e in content["outcomes"] if e["status"] == "FAIL" and not e["numbers"])
    short |= {"status": "PASS", "message": "", "signature": ""}
    assert [finding.split(":")[0] for finding in verify(content, tmp_path)] == ["$.levels"]


@pytest.mark.parametrize(
    ("key", "value"), [("passed", True), ("verdict", "quantconf-1/L5[xnnpack, avx512_vnni]"), ("levels", [])]
)
def test_a_claim_that_does_not_follow_is_found(key, value, tmp_path):
    (finding,) = verify({**SAMPLE, key: value}, tmp_path)
    assert finding.startswith(f"$.{key}: ")
    assert json.dumps(SAMPLE[key]) in finding


def test_kernels_need_a_runner(tmp_path):
    findings = verify({**PASSING, "runner": None}, tmp_path)
    assert [finding.split()[3] for finding in findings] == ["L3", "L4"]
    below = [check for check, (level, _) in CHECKS.items() if level < "L3"]
    assert verify(sample_report(60, checks=below, runner=None).to_dict(), tmp_path) == []


def test_a_waived_case_tells_why_and_until_when(tmp_path):
    content = copy.deepcopy(SAMPLE)
    case = next(e for e in content["outcomes"] if e["status"] == "WAIVED")
    case["message"] = case["message"].split("\n")[0]
    (finding,) = verify(content, tmp_path)
    assert finding == f"{case['id']}: WAIVED, but its message does not tell the waiver's reason, owner, link and expiry"


def test_a_pass_with_forbidden_figures_is_found_in_a_report(tmp_path):
    content = copy.deepcopy(PASSING)
    case = entry(content, "K5")
    case["numbers"] |= {"allowed": case["numbers"]["mismatches"] - 1}
    assert verify(content, tmp_path) == [f"{case['id']}: PASS with figures that break: no more mismatches than allowed"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ('{"seed": NaN}', "it holds NaN; expected finite numbers"),
        ('{"seconds": 1e999}', "it holds 1e999; expected finite numbers"),
        ('{"passed": false, "passed": true}', "key 'passed' occurs twice"),
        ("[" * 100000, "is no JSON"),
    ],
)
def test_what_is_no_json_is_refused(text, told, tmp_path):
    with pytest.raises(ReportError, match=told):
        verify(text, tmp_path)


@pytest.mark.parametrize("text", ["[]", "null", '"x"', "{}", '{"outcomes": 3}'])
def test_json_that_is_no_report_is_told(text, tmp_path):
    assert verify(text, tmp_path)
    with pytest.raises(ReportError, match=r"report\.json: no conformance report"):
        read_report(tmp_path / "report.json")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ReportError, match=r"none\.json: No such file"):
        verify_report(tmp_path / "none.json")


def test_without_jsonschema_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "quantizer-sdk\[report\]"'):
        verify(SAMPLE, tmp_path)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
outcomes = st.builds(
    Outcome,
    id=st.builds(
        lambda check, subject: f"{CHECKS[check][0]}.{check}/{subject}",
        st.sampled_from(list(CHECKS)),
        st.from_regex(r"[A-Za-z0-9_.,:=+-]{1,9}(/[a-z0-9]{1,3}){0,2}", fullmatch=True),
    ),
    status=st.sampled_from(Status),
    message=st.text(min_size=1),
    signature=st.text(),
    numbers=st.dictionaries(st.text().filter(lambda key: key not in FIGURES), values, max_size=3),
    seconds=st.floats(0, 100),
)
reports = st.builds(
    Report,
    backend=st.text(min_size=1),
    runner=st.none() | st.text(),
    profile=st.none() | st.text(),
    environment=st.dictionaries(st.text(), st.text(), max_size=3),
    seed=st.integers(),
    selection=st.dictionaries(st.text(), st.text(), max_size=2),
    outcomes=st.lists(outcomes, max_size=8, unique_by=lambda o: o.id).map(
        lambda found: tuple(sorted(found, key=lambda o: o.id))
    ),
    complete=st.booleans(),
    flaws=st.lists(st.text(min_size=1), max_size=2).map(tuple),
    seconds=st.floats(0, 100),
)


@given(reports)
def test_a_report_survives_json_and_fits_the_schema(report):
    content = json.loads(report.to_json())
    again = Report.from_dict(content)
    assert again == report
    assert again.to_dict() == content
    assert schema_findings(content) == []
