"""More ordinary files: values, texts and notebooks that look a little like attacks and are none."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import io
import ipaddress
import json
import math
import pickle
import random
import struct
import tarfile
import zoneinfo
from collections.abc import Iterator

import joblib
import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import safetensors.numpy
from sklearn.compose import make_column_selector

from tests.gate.scanner.hostile import text, zipped


def values() -> Iterator[tuple[str, bytes]]:
    """Pickles of the standard library, NumPy and pandas."""
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    times = pd.date_range("2026-01-01", periods=3, tz="UTC")
    kept = {
        "zones": datetime.datetime(2026, 1, 1, tzinfo=zone),
        "utc": datetime.datetime.now(datetime.UTC),
        "numbers": [decimal.Decimal("1.5"), fractions.Fraction(1, 3), 10**30, 1j, math.sqrt],
        "containers": [collections.OrderedDict(a=1), collections.Counter("aab"),
                       collections.deque([1, 2], 5), collections.defaultdict(list, a=[1]),
                       collections.ChainMap({"a": 1}), frozenset({1}), range(5), slice(1, 2)],
        "addresses": ipaddress.ip_address("10.0.0.1"),
        "random": random.Random(0),
        "scalars": [np.float64(1), np.int32(2), np.bool_(True), np.datetime64("2026-01-01"),
                    np.str_("x"), np.bytes_(b"y"), np.complex64(1j)],
        "masked": np.ma.masked_array([1, 2], [True, False]),
        "records": np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
        "objects": np.array(["a", None, 3], dtype=object),
        "times": times,
        "frame": pd.DataFrame({"t": times, "s": ["a", "b", "c"], "n": pd.array([1, None, 3])}),
        "multi": pd.Series([1, 2], index=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)])),
        "interval": pd.cut(pd.Series([1, 5, 9]), 2),
        "period": pd.period_range("2026-01", periods=2, freq="M"),
        "buffer": io.BytesIO(b"x"),
        "nullable": pd.DataFrame({"s": ["a", None], "n": [1, None]}).convert_dtypes(),
        "absent": np.array(["a", pd.NA], dtype=object),
        "sparse": pd.Series(pd.arrays.SparseArray([0, 0, 1])),
        "workdays": pd.date_range("2026-01-01", periods=3, freq="B"),
        "quarters": pd.date_range("2026-01-01", periods=3, freq="QE"),
        "columns": make_column_selector(dtype_include=float),
    }  # fmt: skip
    for name, value in kept.items():
        for protocol in (2, 4, 5):
            yield f"{name}-{protocol}.pkl", pickle.dumps(value, protocol)
        buffer = io.BytesIO()
        joblib.dump(value, buffer)
        yield f"{name}.joblib", buffer.getvalue()


def boosters() -> Iterator[tuple[str, bytes]]:
    """What pickles of boosting libraries look like, written by hand."""
    for module, name, booster in (
        ("xgboost.sklearn", "XGBClassifier", "xgboost.core\nBooster"),
        ("lightgbm.sklearn", "LGBMRegressor", "lightgbm.basic\nBooster"),
    ):
        inner = f"c{booster}\n)\x81}}".encode("latin-1") + text("handle") + text("tree") + b"sb"
        outer = f"c{module}\n{name}\n)\x81}}".encode("latin-1")
        yield f"{name}.pkl", b"\x80\x02" + outer + text("_Booster") + inner + b"sb."


def torch_state() -> bytes:
    """A state dict as ``torch.save`` writes it, by hand."""
    storage = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"
    )
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00K\x04\x85K\x01\x85\x89"
    tensor += b"ccollections\nOrderedDict\n)RtR"
    state = b"\x80\x02ccollections\nOrderedDict\n)R(" + text("weight") + tensor + b"u."
    return with_wide_end(zipped({
        "archive/data.pkl": state, "archive/byteorder": b"little",
        "archive/data/0": struct.pack("<4f", 1, -2, 3, 4),
        "archive/version": b"3\n", "archive/.data/serialization_id": b"1234567890",
    }))  # fmt: skip


def with_wide_end(archive: bytes) -> bytes:
    """A zip with the zip64 end record and locator that torch always writes."""
    end = archive.rindex(b"PK\x05\x06")
    count, _, length, start = struct.unpack_from("<2H2L", archive, end + 8)
    wide = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 798, 45, 0, 0, count, count, length, start)
    return archive[:end] + wide + struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1) + archive[end:]


def texts() -> Iterator[tuple[str, bytes]]:
    """Tables, configurations, sources, notebooks."""
    yield "phones.csv", b"name,phone,change\nann,+1 555 0100,-3.2%\nbob,+49-30-1234,-1\ncid,-,+5\n"
    yield (
        "tweets.csv",
        b"id,text\n1,@ann hi!\n2,- a (b)\n3,=)\n4,a = b (c)\n5,+1 for that!\n",
    )
    yield "pipes.csv", b"a|b|c\n-1.5|2|hello!\n+3|4|good (one)\n"
    yield "semicolons.csv", b"a;b\n-1,5;2\n+2,5;-3\n"
    yield "tabs.tsv", b"a\tb\n-1\t@x\n-2\t+y\n"
    yield (
        "train.yaml",
        (
            b"name: run\nnote: great !!! really\nshout: 'wow !!'\nlr: 1e-3\nlayers:\n"
            b"  - {n: 3, f: relu}\n"
            b"bin: !!binary aGk=\nwhen: 2026-01-01\nbase: &b {x: 1}\nother:\n  <<: *b\n"
        ),
    )
    yield (
        "hydra.yaml",
        (
            b"model:\n  _target_: torch.nn.Linear\n  in_features: 3\n"
            b"init:\n  _target_: torch.nn.init.zeros_\nnet: {_target_: acme.models.Net}\n"
        ),
    )
    yield (
        "config.json",
        json.dumps({"a": None, "b": [1.5, "x"], "text": "use {{name}} here"}).encode(),
    )
    yield "list.json", b"[1, 2, 3]"
    cells = [
        "import pandas as pd\ndf = pd.read_csv('a.csv')\ndf.eval('a + b')\ndf",
        "!pip install -q pandas\n%matplotlib inline\n!ls data",
        "%%time\nmodel.fit(X, y)\nmodel.eval()",
        "import os\npath = os.path.join('a', 'b')\nos.makedirs(path, exist_ok=True)",
        "?model\nprint(f'{1:.2f}')",
    ]
    shown = [{"cell_type": "code", "source": cell} for cell in cells]
    shown.append({"cell_type": "markdown", "source": "# Title\n<b>bold</b> | table |"})
    yield "study.ipynb", json.dumps({"nbformat": 4, "nbformat_minor": 5, "cells": shown}).encode()
    yield (
        "train.py",
        (
            b"#!/usr/bin/env python3\n# -*- coding: utf-8 -*-\nimport argparse\nimport logging\n"
            b"import os\n"
            b"import pickle\nimport sys\nfrom pathlib import Path\n\nimport numpy as np\n\n\n"
            b"def main():\n    parser = argparse.ArgumentParser()\n"
            b"    a = parser.parse_args(sys.argv[1:])\n"
            b"    root = Path(os.environ.get('ROOT', '.'))\n    rng = np.random.default_rng(0)\n"
            b"    logging.info('rows %s', rng.random(3))\n    return getattr(a, 'name', root)\n"
        ),
    )
    template = (
        "{% if messages[0]['role'] == 'system' %}{{ '<<SYS>>\\n"
        "' + messages[0]['content'] }}{% endif %}"
        "{% for m in messages[1:] %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + eos_token }}"
        "{% if loop.index0 % 2 == 0 %}{{ bos_token }}{% endif %}{% endfor %}"
        "{{ tools | tojson(indent=2) }}{% for k in range(3) %}{{ k }}{% endfor %}"
        "{{ names | join(', ') }}{{ text.split('</think>')[-1] | trim }}"
    )
    yield "chat_template.jinja", template.encode()
    yield "readme.md", b"# Model\n\nRun `curl https://example.com/x`.\n\ncat\ndog\n"
    yield "words.txt", b"cat\ndog\n(bird)\nis\nover.\n"
    yield "labels", b"count\nvalue\nname\n"
    yield "model.pmml", b'<?xml version="1.0"?><PMML version="4.4"><Header copyright="x"/></PMML>'


def others() -> Iterator[tuple[str, bytes]]:
    """Columnar files, archives, safetensors with notes."""
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"a": [1, -2], "b": ["=x", "+1"]}), buffer)
    yield "table.parquet", buffer.getvalue()
    notes = {"format": "pt", "config": json.dumps({"layers": [1, 2], "name": "x"})}
    yield "noted.safetensors", safetensors.numpy.save({"a": np.ones(3, "f4")}, notes)
    yield "state.pt", torch_state()
    files = {"model/config.json": b"{}", "model/weights.bin": struct.pack("<4f", 1, 2, 3, 4)}
    yield "bundle.zip", zipped(files)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    yield "bundle.tar", made.getvalue()


def files() -> Iterator[tuple[str, bytes]]:
    """All of them."""
    for kind in (values, boosters, texts, others):
        yield from kind()
