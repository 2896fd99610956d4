"""The cases of `pilotlight bench quant`, with few layers."""

from pathlib import Path

from pilotlight_deploy.bench.quant.sparse_case import sparse24_figure


def test_sparse24_attaches_what_its_figure_says(tmp_path: Path) -> None:
    figure = sparse24_figure(tmp_path, layers=1)

    assert figure.id == "quant.sparse24.bytes_ratio"
    assert figure.value == 0.5625
    assert figure.met
    assert not list((tmp_path / "bench-quant").iterdir())
