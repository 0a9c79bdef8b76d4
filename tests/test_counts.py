"""Counts of neurons after calls that did not end: shares stay those of the tokens evaluated."""

from __future__ import annotations

from typing import Any

import pytest

import sparsefire as sf
from model_variants import IDS, variant_path
from sparsefire.core.core import Core
from sparsefire.errors import NotFiniteError


@pytest.mark.parametrize("error", [KeyboardInterrupt, NotFiniteError])
@pytest.mark.parametrize("name", ["calibrated", "relu2"])
def test_after_a_call_that_did_not_end(
    name: str, error: Any, host_core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = host_core.check

    def interrupted(function: str, *arguments: Any, **options: Any) -> int:
        result = check(function, *arguments, **options)
        if function == "sf_session_eval":
            raise error("as by a signal")
        return result

    with sf.Model.load(variant_path(name)) as model:
        model.logits(IDS)
        wanted = model.stats
        for _ in range(3):
            monkeypatch.setattr(host_core, "check", interrupted)
            with pytest.raises(error):
                model.logits(IDS)
            monkeypatch.setattr(host_core, "check", check)
        session = model.session
        assert (session.selected <= session.evaluated * session.hidden).all()
        model.logits(IDS)
        assert model.stats.active_share == wanted.active_share
        assert model.stats.selected_share == wanted.selected_share
        assert max(wanted.selected_share.layers) <= 1
