"""Names that others have taken: found by what an import would find."""

from pathlib import Path

import pytest

import tracker
from tracker.session.clashes import clashes

OURS = str(Path(tracker.__file__).parents[1])


def distribution(site: Path, name: str, version: str, *files: str, top_level: str = "") -> None:
    """Installs a distribution with these empty files."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    if top_level:
        (info / "top_level.txt").write_text(f"{top_level}\n")
    for file in files:
        (site / file).parent.mkdir(exist_ok=True)
        (site / file).touch()


@pytest.fixture
def cwd(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "site"
    distribution(folder, "nvidia-ml-py", "13.0", "pynvml.py")
    return folder


@pytest.mark.parametrize("file", ["tracker.py", "tracker/__init__.py"])
def test_a_module_or_package_of_the_folder_hides_ours(cwd, site, file):
    (cwd / file).parent.mkdir(exist_ok=True)
    (cwd / file).touch()

    (clash,) = clashes(cwd, [OURS, str(site)])

    assert clash.is_fatal and "hides this package" in clash.text and "tracker run" in clash.text


def test_a_folder_that_is_no_package_hides_nothing(cwd, site):
    (cwd / "tracker").mkdir()
    (cwd / "tracker" / "notes.py").touch()

    assert clashes(cwd, [OURS, str(site)]) == []


def test_our_own_checkout_hides_nothing(site):
    assert clashes(Path(OURS), [OURS, str(site)]) == []


def test_a_package_that_comes_earlier_on_the_path_hides_ours(cwd, site, tmp_path):
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "tracker.py").touch()

    assert ["hides this package" in clash.text for clash in clashes(cwd, [str(tmp_path / "earlier"), OURS])] == [True]
    assert clashes(cwd, [OURS, str(tmp_path / "earlier")]) == []


def test_the_old_pynvml_distribution_hides_the_binding(cwd, site):
    distribution(site, "pynvml", "11.5.3", "pynvml/__init__.py", "pynvml/nvml.py")

    (clash,) = clashes(cwd, [str(site), OURS])

    assert clash.is_fatal and "pip uninstall -y pynvml" in clash.text and "nvidia-ml-py" in clash.text


def test_the_new_pynvml_distribution_hides_nothing_and_is_named(cwd, site):
    distribution(site, "pynvml", "13.0.1", "pynvml_utils/__init__.py")

    (clash,) = clashes(cwd, [OURS, str(site)])

    assert not clash.is_fatal and "pynvml 13.0.1 is deprecated" in clash.text


def test_a_pynvml_of_the_folder_hides_the_binding(cwd, site):
    (cwd / "pynvml.py").touch()

    (clash,) = clashes(cwd, [OURS, str(site)])

    assert clash.is_fatal and "rename it" in clash.text


@pytest.mark.parametrize("top_level", ["", "tracker"])
def test_another_distribution_with_a_package_of_our_name_is_named(cwd, site, top_level):
    distribution(site, "tracker", "0.1.1", "tracker/__init__.py", top_level=top_level)

    (clash,) = clashes(cwd, [OURS, str(site)])

    assert clash.is_fatal and "pip uninstall -y tracker" in clash.text


def test_our_own_distribution_is_no_other(cwd, site):
    distribution(site, "gpu-energy-tracker", "0.1.0", top_level="tracker")
    distribution(site, "unrelated", "1.0", "unrelated/tracker.py")

    assert clashes(cwd, [OURS, str(site)]) == []
