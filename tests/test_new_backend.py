"""A newcomer's path: from an empty folder to a backend that pip installs and that conforms to L2."""

import os
import subprocess
import sysconfig
import venv

import pytest
from typer.testing import CliRunner

from quantizer_sdk.commands import app

MAIN = "import sys; from quantizer_sdk.cli import main; sys.argv[0] = 'quantizer-sdk'; main()"


class Newcomer:
    """A folder, and an environment in which only what this test installs is new."""

    def __init__(self, folder):
        self.folder = folder
        self.python = folder / "venv" / "bin" / "python"
        venv.create(folder / "venv", with_pip=False)
        # The packages of this environment, which take minutes to install, are there to import.
        (site,) = (folder / "venv").glob("lib/python*/site-packages")
        (site / "outer.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")

    def run(self, *arguments, folder=None, code=0):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [self.python, *arguments],
            cwd=folder or self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def command(self, *arguments, code=0):
        return self.run("-c", MAIN, *arguments, code=code)


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory):
    return Newcomer(tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="module")
def acme(newcomer):
    printed = newcomer.command("new-backend", "acme")
    install = ("--no-index", "--no-build-isolation", "--disable-pip-version-check", "--quiet", "--editable", "./acme")
    newcomer.run("-m", "pip", "install", *install)
    return newcomer.folder / "acme", printed


def test_the_package_is_short(acme):
    folder, _ = acme
    files = {
        str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.suffix in {".py", ".toml"}
    }
    assert set(files) == {"pyproject.toml", "acme/__init__.py", "tests/test_acme.py"}
    assert sum(len(text.splitlines()) for text in files.values()) < 60
    assert max(len(line) for text in files.values() for line in text.splitlines()) <= 120
    assert '[project.entry-points."quantizer_sdk.backends"]\nacme = "acme:BACKEND"\n' in files["pyproject.toml"]


def test_output_and_package_tell_the_way_to_l3(acme):
    folder, printed = acme
    for text in (printed, (folder / "acme" / "__init__.py").read_text()):
        for word in ("quantizer-sdk conform acme", "L3", "lower(", "Executable", "Runner(", "PROFILE", "Arithmetic"):
            assert word in text, word


def test_it_conforms_to_l2_and_the_cap_is_told(acme, newcomer):
    printed = newcomer.command("conform", "acme", "--level", "L2", "-j", "2")
    assert "quantconf-1/L2[acme" in printed
    assert "no runner: the verdict is capped at L2" in printed


def test_its_own_test_passes(acme, newcomer):
    folder, _ = acme
    assert "1 passed" in newcomer.run("-m", "pytest", "-q", "-p", "no:cacheprovider", folder=folder)


def test_a_missing_spec_fails(acme, newcomer):
    source = acme[0] / "acme" / "__init__.py"
    sound = source.read_text()
    source.write_text(sound.replace("ACTIVATION, ACTIVATION, WEIGHTS", "ACTIVATION, None, WEIGHTS"))
    try:
        printed = newcomer.command("conform", "acme", "--select", "L0.C1/aten.add/*/4d", "-j", "1", code=1)
    finally:
        source.write_text(sound)
    assert "FAIL L0.C1/aten.add/default/generic/4d" in printed
    assert "quantconf-1/none[acme" in printed


def refused(*arguments):
    result = CliRunner().invoke(app, ["new-backend", *map(str, arguments)])
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.parametrize("name", ["Acme", "my-npu", "2fast", "class", "a.b", "../up", "", "größe"])
def test_a_name_that_is_none(name, tmp_path):
    assert "expected small letters, digits and _" in refused("--out", tmp_path, "--", name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("xnnpack", "a backend 'xnnpack' is installed already"),
        ("torch", "a module 'torch' can be imported already"),
        ("sys", "a module 'sys' can be imported already"),
    ],
)
def test_a_name_that_is_taken(name, words, tmp_path):
    assert words in refused(name, "--out", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "acme_npu").mkdir()
    assert "acme_npu exists already" in refused("acme_npu", "--out", tmp_path)
    assert list((tmp_path / "acme_npu").iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    line = refused("acme_npu", "--out", tmp_path / "file")
    assert "cannot write" in line
    assert "Not a directory" in line


def test_names_of_several_words(tmp_path):
    result = CliRunner().invoke(app, ["new-backend", "acme_npu", "--out", str(tmp_path / "made")])
    assert result.exit_code == 0, result.output
    source = (tmp_path / "made" / "acme_npu" / "acme_npu" / "__init__.py").read_text()
    assert "class AcmeNpuQuantizer(TableQuantizer):" in source
    assert f"pip install --editable {tmp_path / 'made' / 'acme_npu'}" in result.stdout
