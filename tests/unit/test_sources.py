"""Finding a model: local folder, GGUF file, cache, hub, Python package, in that order and without silence."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import subprocess
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from efface.errors import ModelError, RunFailed
from efface.models import hub, sources, wheel
from efface.models.cachedir import cache_root
from efface.models.gguf import ORIGIN_FILE, converted_folder
from efface.models.hub import Unavailable
from efface.models.sources import ALIASES, Alias, resolve
from efface.models.tiny import tiny_folder
from efface.models.wheel import PackagedModel
from efface.progress import Progress

USERS_CACHE = cache_root()  # as it is before the tests get one of their own
CONTENT = b"GGUF, or so it says"
PACKAGED = PackagedModel("some-package", "1.2", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


class Notes(Progress):
    """Collects what a person would see."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch) -> Path:
    """Caches of our own, no hub, and an alias with a small package."""
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setitem(ALIASES, "small", Alias("org/small", PACKAGED))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def folder(places) -> Path:
    return tiny_folder(["a b c"], places / "model", width=16, layers=1, ff=16, heads=2)


def make_wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def pretend_conversion(monkeypatch) -> list[bytes]:
    """Stands in for the conversion (tested apart): keeps the file's content and makes a folder where it belongs."""
    seen = []

    def convert(path: Path, sha256: str, *, progress: Progress) -> Path:
        seen.append(path.read_bytes())
        made = converted_folder(sha256)
        made.mkdir(parents=True)
        (made / ORIGIN_FILE).write_text(json.dumps({"sha256": sha256}))
        return made

    monkeypatch.setattr(sources.gguf, "convert", convert)
    return seen


def pretend_pip(monkeypatch, wheel_file: Path | None, stderr: str = "") -> list[list[str]]:
    calls = []

    def run(command: list[str], **options) -> SimpleNamespace:
        calls.append(command)
        if wheel_file:
            shutil.copy(wheel_file, command[command.index("--dest") + 1])
        return SimpleNamespace(returncode=0 if wheel_file else 1, stderr=stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_a_local_folder_comes_first_and_is_known_by_its_content(folder, places):
    shutil.copytree(folder, places / "small")
    first, second = resolve(str(folder)), resolve("small")
    assert (first.origin, first.folder, second.origin) == ("folder", folder, "folder")
    assert first.sha256 == second.sha256 and len(first.sha256) == 64 and first.revision == ""


def test_a_gguf_file_is_converted(places, monkeypatch):
    seen = pretend_conversion(monkeypatch)
    (places / "m.gguf").write_bytes(CONTENT)
    found = resolve(str(places / "m.gguf"))
    assert found.origin == "gguf" and found.revision == f"gguf:{PACKAGED.sha256}" and seen == [CONTENT]


@pytest.mark.parametrize("name", ["nonsense", "./missing/model", "missing.gguf", "a/b/c", "../up", "org/"])
def test_a_name_that_can_be_nothing_is_refused_at_once(name, monkeypatch):
    monkeypatch.setattr(hub, "cached", lambda name: pytest.fail("asked the hub"))
    with pytest.raises(ModelError) as caught:
        resolve(name)
    assert caught.value.code == "model.not-found" and "smollm2-135m" in caught.value.fix


def test_a_file_of_another_kind_is_refused(places):
    (places / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="neither") as caught:
        resolve("model.safetensors")
    assert caught.value.code == "model.not-found"


def test_every_reason_is_shown_when_no_place_has_it(monkeypatch):
    pretend_pip(monkeypatch, None, "ERROR: No matching distribution found")
    notes = Notes()
    with pytest.raises(ModelError) as caught:
        resolve("small", progress=notes)
    for part in ("cache: no copy", "hub: HF_HUB_OFFLINE is set", "package: pip cannot fetch it (ERROR: No matching"):
        assert part in caught.value.cause
    assert any("hub" in line for line in notes.lines) and any("package" in line for line in notes.lines)


def test_the_package_is_fetched_as_a_wheel_and_unpacked(places, monkeypatch):
    seen = pretend_conversion(monkeypatch)
    file = make_wheel(places / "some_package-1.2-py3-none-any.whl", {"some_package/m.gguf": CONTENT})
    calls = pretend_pip(monkeypatch, file)
    found = resolve("small")
    assert (found.origin, seen, calls[0][-1]) == ("package", [CONTENT], "some-package==1.2")
    assert "--no-deps" in calls[0] and ":all:" in calls[0]
    assert resolve("SMALL").origin == "cache" and len(calls) == 1
    assert not (places / "cache" / "fetch").exists()


@pytest.mark.parametrize(
    "files",
    [
        {"a/m.gguf": CONTENT[::-1]},
        {"a/m.gguf": CONTENT * 2},
        {"a/readme": b""},
        {"a/m.gguf": CONTENT, "b/m.gguf": CONTENT},
    ],
)
def test_a_wheel_with_another_file_is_refused(places, monkeypatch, files):
    """Same size but other bytes, another size, no such file, two of them."""
    pretend_conversion(monkeypatch)
    pretend_pip(monkeypatch, make_wheel(places / "some_package-1.2-py3-none-any.whl", files))
    with pytest.raises(ModelError) as caught:
        resolve("small")
    assert caught.value.code == "model.checksum"
    assert not converted_folder(PACKAGED.sha256).exists()


def test_a_full_disk_while_fetching(monkeypatch):
    pretend_pip(monkeypatch, None, "ERROR: Could not install: [Errno 28] No space left on device")
    with pytest.raises(RunFailed) as caught:
        resolve("small")
    assert caught.value.code == "disk.full" and "EFFACE_CACHE" in caught.value.fix


def test_an_installed_package_is_read_without_importing_it(places, monkeypatch):
    site = places / "site"
    info = site / "some_package-1.2.dist-info"
    info.mkdir(parents=True)
    (site / "some_package").mkdir()
    (site / "some_package" / "__init__.py").write_text("raise SystemExit('imported')")
    (site / "some_package" / "m.gguf").write_bytes(CONTENT)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-package\nVersion: 1.2\n")
    (info / "RECORD").write_text("some_package/__init__.py,,\nsome_package/m.gguf,,\n")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("called pip"))
    assert pretend_conversion(monkeypatch) == [] and resolve("small").origin == "package"
    (site / "some_package" / "m.gguf").write_bytes(CONTENT[::-1])
    assert wheel.installed(PACKAGED) is None


def snapshot(places: Path, folder: Path) -> Path:
    """The hub cache as its client lays it out."""
    home = places / "hub" / "models--org--small"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("c0ffee")
    return Path(shutil.copytree(folder, home / "snapshots" / "c0ffee"))


def test_the_hub_cache_is_used_offline_if_it_is_complete(folder, places):
    copy = snapshot(places, folder)
    found = resolve("small")
    assert (found.origin, found.folder, found.revision) == ("cache", copy, "c0ffee")
    (copy / "model.safetensors").unlink()
    with pytest.raises(Unavailable, match=r"not complete.*model\.safetensors"):
        hub.cached("org/small")


def online(monkeypatch, names: list[str], calls: list[dict] | None = None, folder: Path | None = None) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    siblings = [SimpleNamespace(rfilename=name, size=2**20) for name in names]
    info = SimpleNamespace(sha="c0ffee", siblings=siblings)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name, **_: info)
    monkeypatch.setattr(hub, "cached", lambda name: (_ for _ in ()).throw(Unavailable("no copy")))
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, **options: (calls.append({"name": name, **options}), str(folder))[1],
    )


def test_the_hub_is_asked_for_safe_files_of_one_commit(folder, monkeypatch):
    calls: list[dict] = []
    online(monkeypatch, ["config.json", "model.safetensors", "pytorch_model.bin"], calls, folder)
    found = resolve("org/other")
    assert found.origin == "hub" and calls[0]["revision"] == "c0ffee"
    assert not any("bin" in pattern or "py" in pattern for pattern in calls[0]["allow_patterns"])


def test_a_hub_model_with_pickles_only_is_refused_before_the_download(monkeypatch):
    calls: list[dict] = []
    online(monkeypatch, ["config.json", "pytorch_model.bin", "onnx/model.safetensors"], calls)
    with pytest.raises(ModelError) as caught:
        resolve("org/other")
    assert caught.value.code == "model.pickle-only" and "pytorch_model.bin" in caught.value.cause and calls == []


def test_a_hub_that_does_not_answer_is_given_up_soon(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(hub, "ASK_SECONDS", 0.2)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name, **_: time.sleep(5))
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="no answer"):
        hub.download("org/other", Progress())
    assert time.monotonic() - begun < 2


@pytest.mark.smollm2
def test_smollm2_from_the_cache(monkeypatch):
    monkeypatch.setenv("EFFACE_CACHE", str(USERS_CACHE))
    packaged = ALIASES["smollm2-135m"].packaged
    if not converted_folder(packaged.sha256).is_dir():
        pytest.skip("SmolLM2 is not in the cache (resolve 'smollm2-135m' once to get it)")
    found = resolve("smollm2-135m")
    assert found.origin == "cache" and found.revision == f"gguf:{packaged.sha256}"
