import json

from frozenseg.devtools.commands.benchmark_scoring import main


def test_all_ways_agree(tmp_path, capsys):
    out = tmp_path / "out.json"
    main(["--images", "2", "--size", "128", "--repeats", "1", "--json", str(out)])
    medians = json.loads(out.read_text())["medians"]
    assert set(medians) == {"PQ", "AP"}
    for figures in medians.values():
        assert figures["difference"] < 1e-12
        assert figures["ratio"] > 0
    assert len(capsys.readouterr().out.splitlines()) == 3
