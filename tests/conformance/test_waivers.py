"""A waiver holds for what it names, with the signature it expects, until its day; anything else is pointed out."""

import dataclasses
import datetime as dt
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_reports import sample_report

from quantizer_sdk import MissingDependencyError, WaiverError
from quantizer_sdk.conformance.outcome import Outcome, Status
from quantizer_sdk.conformance.waivers import (
    Waived,
    Waiver,
    apply_waivers,
    load_waivers,
    waived,
    waived_groups,
)

TODAY = dt.date(2027, 5, 1)
SHORT = [status for status in Status if status.falls_short]
ENTRY = """
[[waiver]]
id = "L3.K3/aten.add.*"
reason = "the kernel rounds half up"
link = "https://example.org/issues/7"
owner = "Ann <ann@example.org>"
expires = 2027-12-31
signature = "ties: half up"
"""


def waiver(id_="L3.K3/aten.add/*", **changes):
    fields = {
        "id": id_,
        "reason": "the kernel rounds half up",
        "link": "https://example.org/issues/7",
        "owner": "Ann",
        "expires": TODAY,
        "signature": "half up",
    }
    return Waiver(**(fields | changes))


def case(id_="L3.K3/aten.add/s8", status=Status.FAIL, signature="half up", message="3 ties went up"):
    return Outcome(id=id_, status=status, message=message, signature=signature, numbers={"ties": 3})


def passing(id_):
    return case(id_, status=Status.PASS, signature="", message="")


@pytest.mark.parametrize("status", SHORT)
def test_what_falls_short_as_expected_is_waived(status):
    found = case(status=status)
    (outcome,), flaws = apply_waivers([found], [waiver()], TODAY)
    assert flaws == ()
    assert outcome.status is Status.WAIVED
    assert (outcome.id, outcome.signature, outcome.numbers) == (found.id, found.signature, found.numbers)
    for told in (status.value, "3 ties went up", "the kernel rounds half up", "Ann", "https://example.org/issues/7"):
        assert told in outcome.message
    assert TODAY.isoformat() in outcome.message


def test_another_signature_stays_and_is_a_flaw():
    found = case(signature="truncates")
    outcomes, (flaw,) = apply_waivers([found], [waiver()], TODAY)
    assert outcomes == (found,)
    assert "expects signature 'half up'" in flaw
    assert "L3.K3/aten.add/s8 is FAIL with signature 'truncates'" in flaw


def test_one_signature_among_others_is_waived_and_the_rest_told():
    found = [case("L3.K3/aten.add/a"), case("L3.K3/aten.add/b", signature="x"), case("L3.K3/aten.add/c", signature="y")]
    outcomes, (flaw,) = apply_waivers(found, [waiver()], TODAY)
    assert [outcome.status for outcome in outcomes] == [Status.WAIVED, Status.FAIL, Status.FAIL]
    assert "L3.K3/aten.add/b" in flaw
    assert "and 1 more" in flaw


def test_it_holds_on_its_last_day_and_not_after():
    found = case()
    assert apply_waivers([found], [waiver()], TODAY)[1] == ()
    outcomes, (flaw,) = apply_waivers([found], [waiver()], TODAY + dt.timedelta(days=1))
    assert outcomes == (found,)
    assert "expired on 2027-05-01" in flaw


def test_an_expired_waiver_is_a_flaw_even_where_nothing_falls_short():
    _, (flaw,) = apply_waivers([passing("L3.K3/aten.add/s8")], [waiver(expires=dt.date(2020, 1, 1))], TODAY)
    assert "expired" in flaw


def test_a_waiver_that_matches_no_case_is_a_flaw():
    _, (flaw,) = apply_waivers([case()], [waiver(), waiver("L3.K3/aten.sub/*")], TODAY)
    assert "L3.K3/aten.sub/*" in flaw
    assert "matches no case" in flaw


@pytest.mark.parametrize("status", [Status.PASS, Status.UNSUPPORTED])
def test_a_waiver_that_is_no_longer_needed_is_a_flaw(status):
    found = [dataclasses.replace(case(f"L3.K3/aten.add/{name}"), status=status) for name in "ab"]
    outcomes, (flaw,) = apply_waivers(found, [waiver()], TODAY)
    assert outcomes == tuple(found)
    assert "none of the 2 cases that it matches falls short" in flaw


def test_cases_that_pass_beside_one_that_falls_short_are_no_flaw():
    found = [case("L3.K3/aten.add/a"), passing("L3.K3/aten.add/b")]
    outcomes, flaws = apply_waivers(found, [waiver()], TODAY)
    assert [outcome.status for outcome in outcomes] == [Status.WAIVED, Status.PASS]
    assert flaws == ()


def test_of_two_waivers_the_first_that_fits_is_taken_and_the_other_is_needless():
    _, (flaw,) = apply_waivers([case()], [waiver(), waiver("L3.K3/*")], TODAY)
    assert flaw.startswith("waiver L3.K3/* ")
    assert "waives nothing that another does not" in flaw


def test_an_expired_waiver_does_not_stand_in_the_way_of_another():
    (outcome,), flaws = apply_waivers([case()], [waiver(expires=dt.date(2020, 1, 1)), waiver("L3.K3/*")], TODAY)
    assert outcome.status is Status.WAIVED
    assert len(flaws) == 1


def test_two_signatures_of_one_case_pattern_take_two_waivers():
    found = [case("L3.K3/aten.add/a"), case("L3.K3/aten.add/b", signature="truncates")]
    outcomes, flaws = apply_waivers(found, [waiver(), waiver(signature="truncates")], TODAY)
    assert {outcome.status for outcome in outcomes} == {Status.WAIVED}
    assert flaws == ()


def test_cases_that_a_selection_left_out_make_no_flaw():
    assert len(apply_waivers([], [waiver()], TODAY)[1]) == 1
    assert apply_waivers([], [waiver()], TODAY, known=["L3.K3/aten.add/s8"])[1] == ()
    ran = [passing("L3.K3/aten.add/a")]
    assert apply_waivers(ran, [waiver()], TODAY, known=["L3.K3/aten.add/a", "L3.K3/aten.add/b"])[1] == ()
    assert len(apply_waivers(ran, [waiver()], TODAY, known=["L3.K3/aten.add/a"])[1]) == 1


def test_patterns_heed_case():
    _, (flaw,) = apply_waivers([case()], [waiver("l3.k3/*")], TODAY)
    assert "matches no case" in flaw


@given(st.data())
def test_nothing_is_waived_but_what_a_waiver_expects(data):
    outcomes = sample_report(60, seed=data.draw(st.integers(0, 5))).outcomes
    patterns = st.sampled_from(["*", "L3.*", "L?.[CK]*", "L2.R1/aten.add.Tensor/*", "L0.C1/none/*", outcomes[7].id])
    signatures = st.sampled_from(sorted({outcome.signature for outcome in outcomes} - {""}))
    days = st.sampled_from([TODAY, TODAY - dt.timedelta(days=1)])
    made = st.builds(lambda i, s, e: waiver(i, signature=s, expires=e), patterns, signatures, days)
    waivers = data.draw(st.lists(made, max_size=4))
    result, flaws = apply_waivers(outcomes, waivers, TODAY)
    assert [outcome.id for outcome in result] == [outcome.id for outcome in outcomes]
    for before, after in zip(outcomes, result, strict=True):
        expected = [
            w for w in waivers if w.expires >= TODAY and w.signature == before.signature and w.matches(before.id)
        ]
        if before.status.falls_short and expected:
            assert after.status is Status.WAIVED
            note = waived(after.message)
            assert (note.status, note.found, note.reason) == (before.status, before.message, expected[0].reason)
        else:
            assert after == before
    assert apply_waivers(result, (), TODAY) == (result, ())
    assert len(flaws) <= len(waivers)
    expired = [w for w in waivers if w.expires < TODAY]
    assert sum("expired" in flaw for flaw in flaws) == len(expired)


lines = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=30)


@given(
    st.builds(
        Waived,
        status=st.sampled_from(SHORT),
        found=st.text(max_size=80),
        reason=lines,
        link=lines.map("https://{}".format),
        owner=lines.filter(lambda text: ";" not in text),
        expires=st.dates(min_value=dt.date(1000, 1, 1)),
    )
)
def test_the_message_of_a_waived_case_can_be_read_back(note):
    assert waived(str(note)) == note


@pytest.mark.parametrize(
    "message",
    [
        "",
        "FAIL: off by one",
        "FAIL: off\nwaived until 2027-13-31, owner Ann; see https://example.org; because it is known",
        "PASS: fine\nwaived until 2027-12-31, owner Ann; see https://example.org; because it is known",
        "FAIL: off\nwaived until 2027-12-31, owner Ann; see https://example.org; because ",
    ],
)
def test_other_messages_are_none_of_a_waiver(message):
    assert waived(message) is None


def test_waived_cases_are_grouped_by_waiver_the_first_to_expire_first():
    found = [case("L3.K3/aten.add/a"), case("L3.K3/aten.add/b"), case("L3.K3/aten.sub/a")]
    sooner = waiver("L3.K3/aten.sub/*", reason="another")
    later = waiver(expires=TODAY + dt.timedelta(days=9))
    outcomes, _ = apply_waivers(found, [later, sooner], TODAY)
    first, second = waived_groups(outcomes)
    assert (first.reason, first.ids) == ("another", ("L3.K3/aten.sub/a",))
    assert (second.expires, second.ids) == (later.expires, ("L3.K3/aten.add/a", "L3.K3/aten.add/b"))


def test_a_file_is_read(tmp_path):
    path = tmp_path / "waivers.toml"
    path.write_text(ENTRY + ENTRY.replace("half up", "truncates"))
    first, second = load_waivers(path)
    assert first.id == "L3.K3/aten.add.*"
    assert first.expires == dt.date(2027, 12, 31)
    assert first.owner == "Ann <ann@example.org>"
    assert (first.signature, second.signature) == ("ties: half up", "ties: truncates")


def test_a_file_without_entries_holds_no_waivers(tmp_path):
    path = tmp_path / "waivers.toml"
    path.write_text("# none yet\n")
    assert load_waivers(path) == ()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('id = "L3.K3/aten.add.*"', "id = 7", "id = 7; expected a text of one line"),
        ('id = "L3.K3/aten.add.*"', 'id = "add (int8)"', "expected a case id, or a pattern"),
        ('"the kernel rounds half up"', '" "', "reason = ' '; expected a text of one line"),
        ('"the kernel rounds half up"', '"one\\ntwo"', "reason = 'one\\ntwo'; expected a text of one line"),
        ('"the kernel rounds half up"', '"one\\n"', "expected a text of one line"),
        ("https://example.org/issues/7", "issue 7", "link = 'issue 7'; expected a URL"),
        ('"Ann <ann@example.org>"', '["Ann"]', "owner = ['Ann']; expected a text"),
        ("Ann <ann@example.org>", "Ann; Bob", "without a semicolon"),
        ("2027-12-31", '"2027-12-31"', "expires = '2027-12-31', a str; expected a date without quotes"),
        ("2027-12-31", "2027-12-31T00:00:00", "a datetime; expected a date without quotes"),
        ("2027-12-31", "true", "a bool; expected a date"),
        ('"ties: half up"', '""', "signature = ''; expected a text"),
        ('signature = "ties: half up"', "", "lacks signature; expected id, reason, link, owner, expires, signature"),
        ("owner", "owners", "lacks owner and has owners"),
    ],
)
def test_a_malformed_field_is_named_with_its_entry_and_what_is_accepted(tmp_path, old, new, told):
    path = tmp_path / "waivers.toml"
    assert old in ENTRY
    path.write_text(ENTRY.replace("half up", "other") + ENTRY.replace(old, new))
    with pytest.raises(WaiverError) as caught:
        load_waivers(path)
    message = str(caught.value)
    assert f"{path}, entry 2 (" in message
    assert told in message


def test_the_same_id_and_signature_twice_is_an_error(tmp_path):
    path = tmp_path / "waivers.toml"
    path.write_text(ENTRY + ENTRY)
    with pytest.raises(WaiverError, match=r"entry 2 .*occurred before"):
        load_waivers(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[[waiver]", "is no TOML"),
        ("[waiver]\nid = 'x'", "expected \\[\\[waiver\\]\\] tables"),
        ("waiver = ['x']", "expected \\[\\[waiver\\]\\] tables"),
        ("[[waivers]]\nid = 'x'", "has waivers; expected \\[\\[waiver\\]\\] tables"),
        ("[[waiver]]\n", "entry 1 \\(without id\\) lacks id, reason"),
    ],
)
def test_a_malformed_file_is_told(tmp_path, content, told):
    path = tmp_path / "waivers.toml"
    path.write_text(content)
    with pytest.raises(WaiverError, match=told):
        load_waivers(path)


def test_a_file_that_is_no_text_or_no_file_is_told(tmp_path):
    path = tmp_path / "waivers.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(WaiverError, match="is no TOML"):
        load_waivers(path)
    with pytest.raises(WaiverError, match=r"none\.toml: No such file"):
        load_waivers(tmp_path / "none.toml")


def test_without_a_toml_reader_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tomllib" if sys.version_info >= (3, 11) else "tomli", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "quantizer-sdk\[report\]"'):
        load_waivers(tmp_path / "waivers.toml")
