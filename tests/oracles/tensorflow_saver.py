"""OpenAI's form by those whose form it is: TensorFlow's `Saver` writes what our reader is tested with, and judges ours.

    python -m venv tf && tf/bin/pip install tensorflow-cpu safetensors
    tf/bin/python tensorflow_saver.py write          # writes the folders files/saver* again, from files/source
    tf/bin/python tensorflow_saver.py check FOLDER   # opens a FOLDER that `gpt2 convert files/source FOLDER --to
                                                     # openai` wrote, and saves the same tensors for comparison

`check` ends well if TensorFlow finds the 148 variables of files/source in FOLDER, equal bit by bit, and its own save of
them is FOLDER's index, data and `checkpoint`, byte for byte.

The committed files were written by TensorFlow 2.21.0, NumPy 2.4.6 and Python 3.11 on x86-64:

    saver              as OpenAI saved: the variables alone, `model.ckpt`
    saver_training     after three steps of Adam (learning rate 0), with its slots: `model.ckpt-3`; the variables are on
                       several devices, and so in several data files
    saver_partitioned  two variables, one of them in slices, which GPT-2's checkpoints are not
    saver_objects      TensorFlow 2's object checkpoint, `tf.train.Checkpoint`
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow is imported

import numpy as np
import tensorflow as tf
from source import FILES, LINEAR, NORMS, SIZES, Arrays, weights

v1 = tf.compat.v1
Place = Callable[[int], str]  # number of a variable -> its device


def variables(t: Arrays) -> Arrays:
    """Under OpenAI's names. A linear layer is a convolution of width 1 there, so its weights are ``[1, in, out]``."""
    v = {"model/wte": t["wte.weight"], "model/wpe": t["wpe.weight"]}
    v |= {"model/ln_f/g": t["ln_f.weight"], "model/ln_f/b": t["ln_f.bias"]}
    for i in range(SIZES["n_layer"]):
        for name in NORMS:
            v |= {f"model/h{i}/{name}/g": t[f"h.{i}.{name}.weight"], f"model/h{i}/{name}/b": t[f"h.{i}.{name}.bias"]}
        for name in LINEAR:
            path = f"model/h{i}/{name.replace('.', '/')}"
            v |= {f"{path}/w": t[f"h.{i}.{name}.weight"][np.newaxis], f"{path}/b": t[f"h.{i}.{name}.bias"]}
    return v


def save(folder: Path, arrays: Arrays, device: Place = lambda number: "/cpu:0", train: int = 0) -> None:
    """Builds a graph of variables, as OpenAI's program did, and saves it after `train` steps of Adam."""
    folder.mkdir(parents=True, exist_ok=True)
    with tf.Graph().as_default():
        made = []
        for number, (name, array) in enumerate(arrays.items()):
            with tf.device(device(number)):
                made.append(v1.get_variable(name, initializer=tf.constant(array)))
        step = v1.train.get_or_create_global_step() if train else None
        loss = tf.add_n([tf.reduce_sum(tf.square(variable)) for variable in made])
        # With a learning rate of 0 the slots fill, and the weights stay.
        update = v1.train.AdamOptimizer(learning_rate=0.0).minimize(loss, global_step=step) if train else None
        devices = {device(number) for number in range(len(made))}
        saver = v1.train.Saver(sharded=len(devices) > 1, save_relative_paths=True)
        with v1.Session(config=v1.ConfigProto(device_count={"CPU": len(devices)})) as session:
            session.run(v1.global_variables_initializer())
            for _ in range(train):
                session.run(update)
            saver.save(session, str(folder / "model.ckpt"), global_step=step, write_meta_graph=False)


def save_hparams(folder: Path) -> None:
    names = {"n_vocab": "vocab_size", "n_ctx": "n_positions"} | {name: name for name in ("n_embd", "n_head", "n_layer")}
    hparams = {theirs: SIZES[name] for theirs, name in names.items()}
    (folder / "hparams.json").write_text(json.dumps(hparams, indent=2) + "\n")


def save_partitioned(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable("model/wpe", initializer=tf.ones([2, 3]))
        v1.get_variable("model/wte", [4, 3], partitioner=v1.fixed_size_partitioner(2))
        session.run(v1.global_variables_initializer())
        v1.train.Saver(save_relative_paths=True).save(session, str(folder / "model.ckpt"), write_meta_graph=False)


def save_objects(folder: Path) -> None:
    tf.train.Checkpoint(wte=tf.Variable(tf.ones([2, 3]))).write(str(folder / "model.ckpt"))


def write() -> None:
    arrays = variables(weights())
    save(FILES / "saver", arrays)
    save(FILES / "saver_training", arrays, device=lambda number: f"/cpu:{number % 3}", train=3)
    for name in ("saver", "saver_training"):
        save_hparams(FILES / name)
    save_partitioned(FILES / "saver_partitioned")
    save_objects(FILES / "saver_objects")


def check(folder: Path) -> None:
    expected = variables(weights())
    reader = tf.train.load_checkpoint(str(folder))
    found = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    wrong = sorted(found.keys() ^ expected.keys())
    wrong += [name for name in found.keys() & expected.keys() if not equal(found[name], expected[name])]
    with tempfile.TemporaryDirectory() as theirs:
        save(Path(theirs), found)
        save_hparams(Path(theirs))
        files = sorted(path.name for path in Path(theirs).iterdir())
        wrong += [name for name in files if Path(theirs, name).read_bytes() != (folder / name).read_bytes()]
    if wrong:
        sys.exit(f"{folder} is not what TensorFlow {tf.__version__} saves; different: {', '.join(wrong)}")
    print(f"TensorFlow {tf.__version__}: {len(found)} variables equal; {', '.join(files)} identical")


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write")
    commands.add_parser("check").add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "write":
        write()
    else:
        check(arguments.folder)


if __name__ == "__main__":
    main()
