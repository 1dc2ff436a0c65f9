import random

import pytest

TEXT = """the a an The A cat, dog. (house) runs 3.5 1,000 well-known U.S. don't 北京 你好。 世界 über naïve it's & x
"quoted" $5 end! 's “tea” ran"""


def _text(rng: random.Random, least: int) -> str:
    return " ".join(rng.choices(TEXT.split(), k=rng.randint(least, 9)))


def _noisy(rng: random.Random, text: str) -> str:
    return "  ".join(
        rng.choice(TEXT.split()) if rng.random() < 0.2 else word for word in text.split() if rng.random() > 0.1
    )


@pytest.fixture(scope="session")
def rows() -> tuple[list[str], list[list[str]]]:
    """200 predictions with two references each; some are empty."""
    rng = random.Random(0)  # noqa: S311
    references = [[_text(rng, 0), _text(rng, 0)] for _ in range(200)]
    return [_noisy(rng, rng.choice(row)) for row in references], references
