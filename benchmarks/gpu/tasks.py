"""A small transformer with random weights: loaded for each call, or once; one text at a time, or 64."""

import os
import time

from django_ray import task

DIMENSION, LAYERS, LENGTH, WORDS = 512, 8, 64, 30_000
SHARE = float(os.environ.get("GPU_SHARE", "0.25"))


class Encoder:
    """Texts, as lists of numbers of words, become vectors."""

    def __init__(self):
        import torch

        torch.manual_seed(1)
        self.torch = torch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        layer = torch.nn.TransformerEncoderLayer(DIMENSION, 8, 4 * DIMENSION, batch_first=True)
        self.model = torch.nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False).to(self.device).eval()
        self.words = torch.nn.Embedding(WORDS, DIMENSION).to(self.device)

    def __call__(self, texts):
        with self.torch.inference_mode():
            ids = self.torch.tensor(texts, device=self.device)
            return self.model(self.words(ids)).mean(dim=1)[:, :4].tolist()


def texts(number):
    return [[(7 * word + text) % WORDS for word in range(LENGTH)] for text in range(number)]


@task(num_gpus=SHARE, num_cpus=0)
def reloaded(text):
    return Encoder()([text])[0]


@task(worker=Encoder, num_gpus=SHARE)
def warm(encoder, text):
    return encoder([text])[0]


@task(worker=Encoder, batch=64, num_gpus=SHARE)
def batched(encoder, texts):
    return encoder(texts)


@task(num_gpus=SHARE, num_cpus=0)
def overlap(seconds):
    began = time.time()
    time.sleep(seconds)
    return began, time.time()


@task
def on_cpu():
    return time.time()
