"""How far outputs are apart, and how many predictions are equal."""

import numpy as np
import pytest

from orchestrator.export.agreement import Agreement

LOGITS = np.array([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("class_dim", "got", "expected", "equal"),
    [
        (1, LOGITS, LOGITS, 1.0),
        (1, LOGITS, LOGITS[:, ::-1], 0.0),
        (1, LOGITS, LOGITS[[0, 1, 1]], 2 / 3),
        (-1, LOGITS[None], LOGITS[None, [0, 0, 2]], 2 / 3),  # a text of three tokens
        (1, LOGITS.T[None], LOGITS.T[None], 1.0),  # an image of three pixels
        (None, LOGITS, LOGITS, None),
        (1, LOGITS[:, 0], LOGITS[:, 0], None),
    ],
)
def test_predictions_are_the_largest_logits(class_dim, got, expected, equal):
    agreement = Agreement(class_dim)
    agreement.add([got], [expected])
    assert agreement.equal_predictions == equal


def test_predictions_are_counted_over_all_batches():
    agreement = Agreement(1)
    agreement.add([LOGITS], [LOGITS])
    agreement.add([LOGITS[:1]], [LOGITS[:1, ::-1]])
    assert agreement.equal_predictions == 3 / 4
