"""Learning curves as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from seqpar_deploy.training.curves import learning_curves_figure
from seqpar_deploy.training.run_files import draw_curves, write_log


def history(epochs: int, *, every: int = 1) -> list[dict[str, Any]]:
    """Epochs, of which each `every`th was validated."""
    rows = [{"epoch": epoch, "loss": 3 / epoch} for epoch in range(1, epochs + 1)]
    for row in rows[every - 1 :: every]:
        row |= {"f1": 1 - 0.6 / row["epoch"], "ma": 1 - 0.61 / row["epoch"]}
    return rows


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 12, 300])
def test_ticks_are_whole_epochs(epochs: int) -> None:
    figure = learning_curves_figure(history(epochs), "Training run a")
    for axes in figure.axes:
        low, high = axes.get_xlim()
        shown = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert shown
        assert all(tick == round(tick) for tick in shown)
        assert len(set(shown)) == len(shown)
        assert axes.get_title(loc="left")


def test_the_title_names_the_run_and_its_best_epoch() -> None:
    title, summary = (text.get_text() for text in learning_curves_figure(history(12), "Training run a").texts)
    assert title == "Training run a"
    assert "12 epochs" in summary
    assert "F1 95.0 % at epoch 12" in summary
    assert "1 epoch " in learning_curves_figure(history(1), "a").texts[1].get_text()


def test_names_of_curves_do_not_collide() -> None:
    """F1 and mA of the last epoch are 0.05 points apart."""
    figure = learning_curves_figure(history(12), "a")
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[1].texts]
    assert len(boxes) == 2
    assert not boxes[0].overlaps(boxes[1])
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)


@pytest.mark.parametrize("rows", [[], history(3, every=9), history(30, every=5)], ids=["none", "not yet", "some"])
def test_is_drawn_with_few_validations(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    write_log(tmp_path, rows)
    with Image.open(draw_curves(tmp_path)) as picture:
        assert picture.size == (1320, 528)
