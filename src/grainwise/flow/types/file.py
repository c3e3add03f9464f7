"""Types of files, by the names and under the path that Flyte has for them."""

from __future__ import annotations

from .paths import FlyteFile

TYPE_CHECKING = False
if TYPE_CHECKING:  # to a type checker they are all one
    CSVFile = FlyteFile
    HDF5EncodedFile = FlyteFile
    HTMLPage = FlyteFile
    JoblibSerializedFile = FlyteFile
    JPEGImageFile = FlyteFile
    JSONLFile = FlyteFile
    ONNXFile = FlyteFile
    PDFFile = FlyteFile
    PNGImageFile = FlyteFile
    PythonNotebook = FlyteFile
    PythonPickledFile = FlyteFile
    SVGImageFile = FlyteFile
    TFRecordFile = FlyteFile
else:
    CSVFile = FlyteFile["csv"]
    HDF5EncodedFile = FlyteFile["hdf5"]
    HTMLPage = FlyteFile["html"]
    JoblibSerializedFile = FlyteFile["joblib"]
    JPEGImageFile = FlyteFile["jpeg"]
    JSONLFile = FlyteFile["jsonl"]
    ONNXFile = FlyteFile["onnx"]
    PDFFile = FlyteFile["pdf"]
    PNGImageFile = FlyteFile["png"]
    PythonNotebook = FlyteFile["ipynb"]
    PythonPickledFile = FlyteFile["python_pickle"]
    SVGImageFile = FlyteFile["svg"]
    TFRecordFile = FlyteFile["tfrecord"]

__all__ = [
    "CSVFile", "FlyteFile", "HDF5EncodedFile", "HTMLPage", "JPEGImageFile", "JSONLFile",
    "JoblibSerializedFile", "ONNXFile", "PDFFile", "PNGImageFile", "PythonNotebook", "PythonPickledFile",
    "SVGImageFile", "TFRecordFile",
]  # fmt: skip
