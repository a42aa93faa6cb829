"""`python -m minipeft fetch`, with a faked index; tests/course has what fetching is."""

from minipeft.course import real


def test_names_folders_and_failures(cli, monkeypatch, tmp_path):
    monkeypatch.delenv("MINIPEFT_ASSETS", raising=False)
    monkeypatch.setenv("MINIPEFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(real, "fetch", lambda source: tmp_path / source.folder)
    done = cli("fetch")
    assert done.code == 0 and [line.split()[0] for line in done.out.splitlines()] == [*real.SOURCES]
    assert cli("fetch", "vader", "vader").out.splitlines() == [f"vader    {tmp_path / 'vader'}"]
    done = cli("fetch", "vader", "llama")
    assert done.code == 2 and "choose of smollm2" in done.err and not done.out

    def fails(source):
        raise ConnectionError(f"{source.title} could not be fetched.")

    monkeypatch.setattr(real, "fetch", fails)
    assert cli("fetch").code == 2
    done = cli("fetch", "--optional")
    assert done.code == 0 and len(done.out.splitlines()) == 1 and not done.err
