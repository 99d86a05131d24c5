"""Ask a running service, with nothing but the standard library. `blocklora serve runs/mine` starts one; then:

python examples/service_client.py http://127.0.0.1:8000 new.jpg more.jpg
"""

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

address, *images = sys.argv[1:]
token = os.environ.get("BLOCKLORA_TOKEN")
headers = {"Content-Type": "application/octet-stream"} | (
    {"Authorization": f"Bearer {token}"} if token else {}
)

for image in images:
    request = urllib.request.Request(
        f"{address}/v1/predict?top_k=3", data=Path(image).read_bytes(), headers=headers, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            (found,) = json.load(answer)["predictions"]
    except urllib.error.HTTPError as error:  # 415: no image; 429: come back later
        print(f"{image}: {error.code} {json.load(error)['error']}")
        continue
    print(f"{image}: {found['label']} ({found['probability']:.1%})")
