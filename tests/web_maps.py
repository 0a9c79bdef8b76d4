"""Scripts that read the map of the browser page, and models for it."""

from __future__ import annotations

from pathlib import Path

import mixture_models
from sparsefire.gguf.reader import GgufFile
from sparsefire.gguf.writer import TensorData, write_gguf

# How many tiles the map has, by those that a line and a column near its top left corner cross.
TILES = """async () => {
    const canvas = document.getElementById("map");
    const copy = Object.assign(document.createElement("canvas"), {
        width: canvas.width, height: canvas.height,
    });
    const context = copy.getContext("2d", { willReadFrequently: true });
    context.drawImage(canvas, 0, 0);
    const count = (x, y, width, height) => {
        const { data } = context.getImageData(x, y, width, height);
        const pixels = new Uint32Array(data.buffer);
        const [ground] = new Uint32Array(context.getImageData(0, 0, 1, 1).data.buffer);
        let found = 0;
        for (let i = 0, before = ground; i < pixels.length; before = pixels[i++]) {
            found += pixels[i] !== ground && before === ground;
        }
        return found;
    };
    return count(0, 15, canvas.width, 1) * count(40, 0, 1, canvas.height);
}"""

# Maps in a box of their own, of three layers and of twenty: how many colours there are at the left
# edge and among the names of the first, and above and below the names of the second.
NAMES = """async () => {
    const { Dots } = await imported("/dots.js");
    const box = document.body.appendChild(document.createElement("div"));
    box.style.cssText = "width: 300px; height: 200px";
    const canvas = box.appendChild(document.createElement("canvas"));
    const picture = new Dots(canvas);
    picture.layout(["9", "42r", "100c"], 40, [], 1);
    picture.show(new Uint8Array(3 * picture.perLayer));
    const colours = (...area) => {
        const copy = Object.assign(document.createElement("canvas"), {
            width: canvas.width, height: canvas.height,
        });
        const context = copy.getContext("2d", { willReadFrequently: true });
        context.drawImage(canvas, 0, 0);
        const { data } = context.getImageData(...area);
        return new Set(new Uint32Array(data.buffer)).size;
    };
    const found = [colours(0, 0, 1, canvas.height), colours(1, 0, 20, canvas.height)];
    box.style.height = "120px";
    const names = Array.from({ length: 20 }, (_, layer) => String(layer + 1));
    picture.layout(names, 40, [], 1);
    picture.show(new Uint8Array(20 * picture.perLayer));
    found.push(colours(0, 0, 20, 1), colours(0, canvas.height - 1, 20, 1));
    box.remove();
    return found;
}"""


# Of layers of 6 experts with 32 neurons and of one with 100 neurons without experts: the extent of
# each expert's dots, in columns and rows of a layer, and how many dots there are of each kind.
EXPERTS = """async () => {
    const { Dots } = await imported("/dots.js");
    const box = document.body.appendChild(document.createElement("div"));
    box.style.cssText = "width: 300px; height: 200px";
    const picture = new Dots(box.appendChild(document.createElement("canvas")));
    picture.layout(["1", "2"], 192, [], 1, [32, 0]);
    const at = (layer, neuron) => {
        const dot = picture.dotOf(layer, neuron) - layer * picture.perLayer;
        return picture.place(layer, dot);
    };
    const extents = [0, 1, 2, 3, 4, 5].map((expert) => {
        const places = Array.from({ length: 32 }, (_, i) => at(0, 32 * expert + i));
        const [xs, ys] = [0, 1].map((axis) => places.map((place) => place[axis]));
        return [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    });
    const count = (layer, neurons) =>
        new Set(Array.from({ length: neurons }, (_, i) => String(at(layer, i)))).size;
    const found = [extents, count(0, 192), count(1, 100), picture.group];
    box.remove();
    return found;
}"""

# Keeps what is written on canvases, and how far from their left edges.
WRITTEN = """() => {
    const { prototype } = CanvasRenderingContext2D;
    const fillText = prototype.fillText;
    window.written = {};
    prototype.fillText = function (text, x, y) {
        window.written[text] = x - this.measureText(text).width;
        fillText.call(this, text, x, y);
    };
}"""


def with_tokens(path: Path) -> Path:
    """The model with a vocabulary in which texts of a, b and c can be written."""
    with GgufFile.open(path) as file:
        keys = {
            key: value
            for key, value in file.typed_metadata().items()
            if not key.startswith("tokenizer.")
        }
        tensors = {
            name: TensorData(each.format, each.shape, file.tensor_data(name).copy())
            for name, each in file.tensors.items()
        }
    tokens = ["<unk>", "a", "b", "c", *(f"t{i}" for i in range(4, mixture_models.VOCAB))]
    vocabulary = {
        "model": "llama",
        "tokens": tokens,
        "scores": [0.0] * len(tokens),
        "token_type": [2] + [1] * (len(tokens) - 1),
        "unknown_token_id": 0,
    }
    own = {f"tokenizer.ggml.{key}": value for key, value in vocabulary.items()}
    write_gguf(path, {**keys, **own}, tensors)
    return path
