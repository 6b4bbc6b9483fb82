"""Classify a JPEG with a LiteRT file: ``python classify_litert.py care.tflite photo.jpg``.

It needs ai-edge-litert, NumPy and OpenCV, and neither care_mm nor torch.
"""

import json
import sys
import zipfile

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter

model, photo = sys.argv[1:]
about = json.loads(zipfile.ZipFile(model).read("description.json"))
height, width = about["shape"]

image = cv2.imread(photo)  # (H, W, 3), blue first
if image is None:
    sys.exit(f"{photo}: not an image")
image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
if about["channels"] == "RGB":
    image = image[..., ::-1]
image = (image.astype(np.float32) - about["mean"]) / about["std"]
image = image.transpose(2, 0, 1)[None].astype(np.float32)  # (1, 3, H, W)

run = Interpreter(model_path=model, num_threads=2).get_signature_runner("forward")
(name,) = run.get_input_details()
logits = run(**{name: image})["output_0"][0]
scores = np.exp(logits - logits.max())
scores /= scores.sum()
for label in np.argsort(-scores)[:3]:
    print(f"{about['dataset_meta']['classes'][label]} {scores[label]:.4f}")
