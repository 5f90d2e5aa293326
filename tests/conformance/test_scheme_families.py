"""Names of configurations as promises, and the cases that they have."""

import dataclasses
from collections import Counter

import pytest

from quantizer_sdk import find_backend
from quantizer_sdk.conformance.probing import Claims
from quantizer_sdk.conformance.scheme import Scheme, plain_schemes
from quantizer_sdk.conformance.scheme_families import scheme_scenarios
from quantizer_sdk.conformance.suite import scenarios_of


@pytest.mark.parametrize(
    ("name", "dynamic", "bits", "group"),
    [
        ("s8.pc", False, 8, None),
        ("s8.w4.pc", False, 4, None),
        ("d8.pc", True, 8, None),
        ("d8.w4.g32", True, 4, 32),
        ("d8.w4.g128", True, 4, 128),
        ("default", False, 8, None),
        ("u8.pc", False, 8, None),
        ("d8", False, 8, None),
    ],
)
def test_a_name_promises(name, dynamic, bits, group):
    assert Scheme.named(name) == Scheme(dynamic=dynamic, weight_bits=bits, group=group)


def test_what_nearly_all_backends_have_is_plain():
    assert plain_schemes(["s8.pc", "d8.pc", "s8.w4.pc", "default"]) == ("s8.pc", "default")


def families(claims, schemes=("d8.pc", "d8.w4.pc", "d8.w4.g32", "s8.w4.pc")):
    return scheme_scenarios(find_backend("xnnpack").quantizer().rows, schemes, claims)


def test_what_is_not_claimed_has_to_say_why_and_no_more():
    found = families(lambda _program, _scheme: False)
    assert {scenario.checks for scenario in found} == {("C1",)}
    assert "aten.add" in {scenario.subject for scenario in found}


def test_a_gemm_that_is_claimed_is_looked_at_from_all_sides():
    found = families(lambda program, _scheme: len(program.parameters) > 0, ("d8.pc",))
    linear = [scenario for scenario in found if scenario.subject == "aten.linear"]
    checks = {check for scenario in linear for check in scenario.checks}
    assert checks >= {"C1", "C2", "C4", "E1", "E2", "E3", "E4", "R1", "R2", "R6", "D1", "D2"}
    assert checks >= {"K1", "K2", "K3", "K5", "K6", "K7"}
    assert {"rows_unequal", "rows_flat", "rows_extreme", "rows_ties", "nonfinite"} <= {s.data for s in linear}


def test_groups_divide_the_depth_of_the_forms_they_are_tried_on():
    found = families(lambda _program, _scheme: True, ("d8.w4.g32",))
    depths = {s.program.parameters[0][-1] for s in found if s.subject == "aten.linear" and "D2" in s.checks}
    assert depths
    assert all(depth % 32 == 0 for depth in depths)


def test_other_configurations_change_no_case_of_the_plain_ones():
    backend = find_backend("xnnpack")
    plain = {name: backend.configurations[name] for name in plain_schemes(backend.configurations)}
    alone = [id_ for s in scenarios_of(dataclasses.replace(backend, configurations=plain)) for id_ in s.case_ids()]
    every = [id_ for s in scenarios_of(backend) for id_ in s.case_ids()]
    assert set(alone) <= set(every)
    assert len(every) - len(alone) <= 500
    assert max(Counter(every).values()) == 1


def test_a_backend_without_a_plain_configuration_has_no_static_cases():
    backend = find_backend("xnnpack")
    only = dataclasses.replace(backend, configurations={"d8.pc": backend.configurations["d8.pc"]})
    assert {scenario.scheme for scenario in scenarios_of(only)} == {"d8.pc"}


def test_claims_are_the_quantizers_own():
    backend = find_backend("xnnpack")
    claims = Claims(backend)
    programs = {s.subject: s.program for s in scenarios_of(backend) if s.scheme == "d8.pc"}
    assert claims(programs["aten.linear"], "d8.pc")
    assert not claims(programs["aten.add"], "d8.pc")
    assert claims(programs["aten.add"], "s8.pc")
