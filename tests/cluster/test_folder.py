"""Output folders of several kinds: their files are whole or absent."""

import fsspec
import pytest

from soundcrafter.cluster.folder import OutputFolder


@pytest.fixture(params=["path", "file", "memory", "dir"])
def folder(request, tmp_path):
    urls = {
        "path": str(tmp_path / "out"),
        "file": (tmp_path / "out").as_uri(),
        "memory": f"memory://{tmp_path.name}/out",
        "dir": f"dir::{(tmp_path / 'out').as_uri()}",  # a file system that only moves
    }
    return OutputFolder(urls[request.param])


def test_files_are_written_read_listed_and_removed(folder):
    assert folder.names() == set()
    folder.write("a.bin", b"one")
    folder.write("below/b.bin", b"two")
    folder.write("a.bin", b"three")
    assert folder.names() == {"a.bin"}
    assert folder.names("below") == {"b.bin"}
    assert folder.read("a.bin") == b"three"
    folder.remove("a.bin")
    assert folder.names() == set()


def test_a_file_that_cannot_be_finished_is_absent(tmp_path, monkeypatch):
    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    folder = OutputFolder(str(tmp_path))
    folder.write("a.bin", b"before")
    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(ValueError, match="disk full"):
        folder.write("a.bin", b"after")
    assert folder.names() == {"a.bin"}
    assert folder.read("a.bin") == b"before"


def test_a_folder_here_is_known(tmp_path):
    assert OutputFolder(tmp_path.as_uri()).local == tmp_path
    assert OutputFolder("memory://a").local is None
    with pytest.raises(ValueError, match="nowhere"):
        OutputFolder("nowhere://a").names()
    assert "memory" in fsspec.available_protocols()
