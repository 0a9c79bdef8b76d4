"""What a neuron budget costs a model: tokens a second with all neurons in memory, and with fewer.

    python -m bench.studies.neuron_budget --backend native

Decodes one text token by token in each of the models in turn, after a first pass over it that fills
the caches and chooses their hot sets, and checks that the logits have the same bits.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

import sparsefire as sf

SHARES = (1.0, 0.8, 0.6, 0.4, 0.2)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.studies.neuron_budget", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("-m", "--model", metavar="FILE", help="calibrated; default: the one in the package")
    add("--backend", default="auto", help="default %(default)s")
    add("--threads", type=int, default=1, metavar="N", help="default %(default)s")
    add("--policy", default="lru", help="lru, lfu or window; default %(default)s")
    add("--tokens", type=int, default=200, metavar="N", help="default %(default)s")
    options = parser.parse_args()
    print(sf.use_backend(options.backend, threads=options.threads))

    whole = sf.Model.load(options.model)
    prompt = whole.tokenize("The people of the United States have")
    "".join(whole.generate(prompt, options.tokens, temperature=0.8, seed=1))
    ids = [*prompt, *whole.stats.token_ids][: options.tokens]
    models = {"in memory": whole}
    for share in SHARES:
        cache = sf.NeuronCache(hot_fraction=share, policy=options.policy)
        models[f"{share:.0%}"] = sf.Model.load(options.model, neuron_budget=cache)
    for model in models.values():
        model.session.rewind(0, "sparse")
        for token in ids:
            model.session.step(token)
        if model.neurons is not None:
            model.neurons.reclassify()
        model.session.rewind(0, "sparse")
    before = {name: each.neurons.stats for name, each in models.items() if each.neurons}
    times: dict[str, list[float]] = {name: [] for name in models}
    order = list(models)
    for token in ids:
        found = {}
        for name in order:
            began = time.perf_counter()
            logits = models[name].session.step(token)
            times[name].append(time.perf_counter() - began)
            found[name] = logits.copy()
        assert all(np.array_equal(each, found["in memory"]) for each in found.values())
        order = order[1:] + order[:1]

    print(f"{'':12}{'budget':>12}{'tokens/s':>10}{'found':>8}{'neurons read':>14}{'bytes':>10}")
    for name, model in models.items():
        speed = 1 / statistics.median(times[name])
        if model.neurons is None:
            print(f"{name:12}{'':12}{speed:10.0f}")
            continue
        after, start = model.neurons.stats, before[name]
        hits, misses = after.hits - start.hits, after.misses - start.misses
        print(
            f"{name:12}{model.neurons.budget_bytes:12,}{speed:10.0f}{hits / (hits + misses):8.1%}"
            f"{misses / len(ids):14.0f}{(after.bytes_read - start.bytes_read) / len(ids):10,.0f}"
        )
    print("neurons and bytes are read for one token, on average; every logit had the same bits")


if __name__ == "__main__":
    main()
