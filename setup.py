"""Packaging. Pinned versions that are known to work together stand in requirements.txt."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="frozenseg",
    version="0.1.0",
    description="Open-vocabulary segmentation with frozen CLIP and SAM: FrozenSeg and Fusioner",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["frozenseg", "frozenseg.*"]),
    package_data={
        "frozenseg": [
            "py.typed",
            "data/vocabularies/*.txt",
            "data/prepare/*.txt",
            "text/*.txt",
            "encoders/clip_configs/*.json",
            "model_zoo/*/*",
        ]
    },
    install_requires=[
        "torch>=2.6",
        "torchvision",
        "open_clip_torch>=3.0",
        "timm>=1.0.15",
        "segment-anything>=1.0",
        "fvcore",
        "iopath",
        "yacs",
        "safetensors",
        "numpy",
        "scipy",
        "pillow",
        "opencv-python-headless",
        "pycocotools",
        "hotcoco>=1.3",
        "tqdm",
        "tensorboard",
        "matplotlib",
    ],
    extras_require={"cityscapes": ["cityscapesScripts"], "fusioner": ["transformers>=4.48"]},
    entry_points={"console_scripts": ["frozenseg=frozenseg.commands:main"]},
)
