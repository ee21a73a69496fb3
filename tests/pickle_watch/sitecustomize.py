"""Python imports this at its start where the folder is on PYTHONPATH: what Ray pickles is looked through.

Each process writes PICKLE_WATCH/<pid>: the names in WATCHED (JSON) that were in a pickle, one to a line.
"""

import importlib.util
import json
import os
import sys

FOLDER, WATCHED = os.environ["PICKLE_WATCH"], [name.encode() for name in json.loads(os.environ["WATCHED"])]


class Watch:
    """Waits for Ray's pickler to be imported: Ray reads its environment then, not now."""

    def find_spec(self, name, path=None, target=None):
        if name != "ray.cloudpickle":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_watch(module):
            load(module)
            watch(module)

        spec.loader.exec_module = load_and_watch
        return spec


def watch(pickler):
    dumps = pickler.dumps

    def watched(*args, **options):
        data = dumps(*args, **options)
        found = [name for name in WATCHED if name in data]
        if found:
            with open(f"{FOLDER}/{os.getpid()}", "ab") as file:
                file.write(b"".join(name + b"\n" for name in found))
        return data

    pickler.dumps = watched


sys.meta_path.insert(0, Watch())
