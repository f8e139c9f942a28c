#!/usr/bin/env python3
"""Trains the model in samples/: a small timm VisionTransformer on Fashion-MNIST, on one GPU.

    train_sample.py --data /usr/share/datasets/fashion-mnist --out DIR --minutes 7

The 28 x 28 pictures are scaled to 112 x 112 (Pillow's bicubic) and cut into 28 x 28 patches of 4 x
4 pixels, so a token is one picture element seen with its neighbours, and masks have 784 + 1 tokens
to act on. Training is dense; masks come afterwards, without any training under them.

DIR receives
    fashion_vit.safetensors  the model, ready for vitrun
    predictions.npy          uint8 [10000]: class predicted in fp32 for each test image
    accuracy.json            dense test accuracy, and that under masks (samples/masks and others)
    checkpoint.pt            the state_dict alone; --from reads it (or the .safetensors) and does
                             everything but train
The time limit covers all of it. Needs torch, timm, numpy, Pillow, safetensors.
"""
import argparse
import json
import math
import os
import time

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform
from timm.layers import DropPath

import fashion_folders
import timm_masks
from export_timm import export

HERE = os.path.dirname(os.path.abspath(__file__))
SIDE = 112  # pixels that the network sees; the pictures have 28
PATCH_DROP = 0.5  # share of the patches left out in the first part of the training
RESERVE = 120  # seconds kept for the evaluation at the end

# The masks of accuracy.json besides those in samples/masks.
EXPRESSIONS = (
    'local_2d(distance=2)',
    'local_2d(distance=3)',
    'local_2d(distance=5)',
    'local_2d(distance=8)',
    'axial_2d()',
    'axial_2d() | local_2d(distance=3)',
    'axial_2d() | local_2d(distance=5)',
    'swin(window_size=7)',
    'dilated_2d(k=2) | local_2d(distance=3)',
)


def make_model(depth, dim, heads, patch):
    cfg = dict(input_size=(1, SIDE, SIDE), interpolation='bicubic', crop_pct=1.0,
               crop_mode='center', mean=(0.5,), std=(0.5,), num_classes=len(fashion_folders.LABELS))
    model = timm.models.VisionTransformer(
        img_size=SIDE, patch_size=patch, in_chans=1, num_classes=len(fashion_folders.LABELS),
        embed_dim=dim, depth=depth, num_heads=heads, mlp_ratio=3.0, patch_drop_rate=PATCH_DROP)
    model.pretrained_cfg = cfg
    with torch.no_grad():  # neighbours start out alike: learning where a patch lies takes long
        model.pos_embed[0, 1:] = 0.3 * sinusoids(SIDE // patch, dim)
    return model


def sinusoids(side, dim):
    """Sines and cosines of row and column at dim / 4 wavelengths, [side * side, dim]."""
    rate = torch.exp(-math.log(1000.0) * torch.arange(dim // 4) / (dim // 4))
    angle = torch.arange(side)[:, None] * rate
    one = torch.cat([angle.sin(), angle.cos()], 1)
    rows = one[:, None].expand(side, side, dim // 2)
    columns = one[None, :].expand(side, side, dim // 2)
    return torch.cat([rows, columns], 2).reshape(side * side, dim)


# ---- data, resident on the device ----

def load(folder, split):
    """uint8 [count, 28, 28] and int64 [count]."""
    (shape, pixels), labels = fashion_folders.read_split(folder, split)
    images = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).reshape(shape)
    return images, torch.frombuffer(bytearray(labels), dtype=torch.uint8).long()


def bicubic_matrix(source, target):
    """float32 [target, source]: Pillow's bicubic enlargement of a line."""
    line = np.arange(target)[:, None]
    distance = np.abs(np.arange(source)[None, :] - ((line + 0.5) * source / target - 0.5))
    near = (1.5 * distance - 2.5) * distance ** 2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weight = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return torch.tensor(weight / weight.sum(1, keepdims=True), dtype=torch.float32)


def enlarge(images, matrix):
    """[B, 28, 28] in 0..255 -> the network's input [B, 1, SIDE, SIDE], rounded to levels as Pillow
    does after each direction."""
    across = (images @ matrix.T).round().clamp(0, 255)
    both = (matrix @ across).round().clamp(0, 255)
    return both[:, None] / 127.5 - 1


def augment(images):
    """float [B, 28, 28] -> the same: mirrored, moved by up to two pixels, half of them turned and
    scaled a little, half of them with a rectangle of noise."""
    count, side, device = len(images), images.shape[-1], images.device

    def uniform(low, high, *shape):
        return torch.rand(count, *shape, device=device) * (high - low) + low

    bend = (uniform(0, 1) < 0.5).float()
    angle = uniform(-0.15, 0.15) * bend
    scale = 1 + uniform(-0.12, 0.12) * bend
    mirror = torch.where(uniform(0, 1) < 0.5, 1.0, -1.0)
    shift = torch.randint(-2, 3, (count, 2), device=device) * (2 / side)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    matrix = torch.stack([cos * mirror, -sin, shift[:, 0], sin * mirror, cos, shift[:, 1]], 1)
    grid = F.affine_grid(matrix.reshape(count, 2, 3), (count, 1, side, side), align_corners=False)
    images = F.grid_sample(images[:, None], grid, align_corners=False)[:, 0]

    centre, half = uniform(0, side, 2), uniform(2, 6, 2) * (uniform(0, 1, 1) < 0.5)
    line = torch.arange(side, device=device)
    inside = (line - centre[:, :, None]).abs() < half[:, :, None]
    hole = inside[:, 0, :, None] & inside[:, 1, None, :]
    return torch.where(hole, uniform(0, 255, side, side), images)


# ---- training ----

def learning_rate(progress, peak, warmup=0.05):
    if progress < warmup:
        return peak * max(progress / warmup, 0.01)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))))


def parameter_groups(model, decay):
    matrices = [p for n, p in model.named_parameters()
                if p.ndim > 1 and 'token' not in n and 'pos' not in n]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [dict(params=matrices, weight_decay=decay), dict(params=others, weight_decay=0.0)]


def loss_of(model, batch, target, patch_drop):
    """Cross entropy with a share `patch_drop` of the patches left out, to save time."""
    model.patch_drop.prob = patch_drop
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=batch.is_cuda):
        return F.cross_entropy(model(batch).float(), target, label_smoothing=0.1)


def compile_blocks(model, batch, target):
    """Compiles the blocks for both token counts; where that fails, they stay as they are."""
    try:
        for block in model.blocks:
            block.compile(dynamic=False)
        for patch_drop in (PATCH_DROP, 0.0):
            loss_of(model, batch, target, patch_drop).backward()
    except Exception as error:  # any of the compiler's many: the training can do without it
        print(f'not compiled: {type(error).__name__}: {str(error)[:200]}', flush=True)
        for block in model.blocks:
            block._compiled_call_impl = None
    model.zero_grad(set_to_none=True)


def train(model, images, labels, deadline, args):
    """Trains until `deadline`; the schedule is tied to the clock. The model ends with the moving
    average of its weights. Returns the number of steps."""
    device = images.device
    matrix = bicubic_matrix(images.shape[-1], SIDE).to(device)
    for block in model.blocks:
        block.drop_path1, block.drop_path2 = DropPath(args.drop_path), DropPath(args.drop_path)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), betas=(0.9, 0.98),
                                  fused=images.is_cuda)
    parameters = list(model.parameters())
    average = [p.detach().clone() for p in parameters]
    model.train()
    if args.compile:
        compile_blocks(model, enlarge(images[:args.batch].float(), matrix), labels[:args.batch])
    begin = shown = time.time()
    step, recent = 0, []
    while True:
        order = torch.randperm(len(images), device=device)
        for pick in order[:len(order) // args.batch * args.batch].split(args.batch):
            now = time.time()
            if now >= deadline:
                with torch.no_grad():
                    torch._foreach_copy_(parameters, average)
                return step
            progress = (now - begin) / (deadline - begin)
            for group in optimizer.param_groups:
                group['lr'] = learning_rate(progress, args.lr)
            batch = enlarge(augment(images[pick].float()), matrix)
            loss = loss_of(model, batch, labels[pick], PATCH_DROP if progress < 0.55 else 0.0)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            step += 1
            recent.append(loss.detach())
            with torch.no_grad():
                torch._foreach_lerp_(average, parameters, 1 - min(0.998, (1 + step) / (10 + step)))
            if now - shown > args.show:
                shown, mean, recent = now, torch.stack(recent).mean().item(), []
                epoch = step * args.batch / len(images)
                print(f'{now - begin:6.0f} s  step {step}  epoch {epoch:.2f}  loss {mean:.4f}',
                      flush=True)
                if not math.isfinite(mean):
                    raise FloatingPointError(f'loss {mean} at step {step}')


# ---- evaluation ----

def preprocessed(images, cfg):
    """timm's own evaluation transform on every picture: float32 [count, 1, SIDE, SIDE]."""
    transform = create_transform(cfg['input_size'], is_training=False, mean=cfg['mean'],
                                 std=cfg['std'], interpolation=cfg['interpolation'],
                                 crop_pct=cfg['crop_pct'], crop_mode=cfg['crop_mode'])
    return torch.stack([transform(Image.fromarray(image)) for image in images.cpu().numpy()])


@torch.no_grad()
def predict(model, inputs, masks, batch):
    """int64 [count]: predicted classes, in fp32 (masks as timm_masks has them)."""
    with timm_masks.masked(model, masks):
        return torch.cat([model(part).argmax(1) for part in inputs.split(batch)])


def mask_documents(depth, folder):
    """(name, mask configuration): the files in `folder`, then EXPRESSIONS on all layers, the first
    half and the last half."""
    for name in sorted(n for n in os.listdir(folder) if n.endswith('.json')):
        with open(os.path.join(folder, name), encoding='utf-8') as file:
            yield name, json.load(file)
    half = depth // 2
    for layers in ('all', f'0-{half - 1}', f'{half}-'):
        for expression in EXPRESSIONS:
            yield f'{layers}: {expression}', {'layers': {layers: expression}}


def evaluate(model, inputs, labels, deadline, batch, args):
    """Writes predictions.npy and accuracy.json, and prints the table."""
    depth, heads = len(model.blocks), model.blocks[0].attn.num_heads
    dense = predict(model, inputs, [None] * depth, batch)
    np.save(os.path.join(args.out, 'predictions.npy'), dense.cpu().numpy().astype(np.uint8))
    report = dict(images=len(labels), dense=(dense == labels).double().mean().item(), masks=[])

    def save():
        rows = ',\n '.join(json.dumps(row) for row in report['masks'])
        with open(os.path.join(args.out, 'accuracy.json'), 'w', encoding='utf-8') as file:
            file.write(json.dumps({**report, 'masks': []})[:-2] + f'\n {rows}\n]}}\n')

    save()
    print(f'dense: {report["dense"]:.4f} of {len(labels)} test images', flush=True)
    for name, document in mask_documents(depth, args.masks):
        if time.time() > deadline:
            print('out of time: the remaining masks are left out', flush=True)
            return
        try:
            masks = timm_masks.layer_masks(document, depth, heads, 1, model.patch_embed.grid_size,
                                           args.masks)
        except ValueError as error:
            print(f'{name}: left out: {error}', flush=True)
            continue
        found = predict(model, inputs, masks, batch)
        row = dict(mask=name, density=[round(timm_masks.density(m), 6) for m in masks],
                   accuracy=(found == labels).double().mean().item(),
                   agreement=(found == dense).double().mean().item())
        report['masks'].append(row)
        save()
        print(f'{name:48} mean density {np.mean(row["density"]):.4f}  '
              f'accuracy {row["accuracy"]:.4f}  as dense {row["agreement"]:.4f}', flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--data', default=fashion_folders.DEBIAN,
                        help='folder of the four idx files')
    parser.add_argument('--out', required=True, help='folder for the results')
    parser.add_argument('--minutes', type=float, default=7, help='for everything (default: 7)')
    parser.add_argument('--masks', default=os.path.join(HERE, '../samples/masks'),
                        help='folder of mask configurations to evaluate (default: samples/masks)')
    parser.add_argument('--from', dest='checkpoint',
                        help='evaluate this checkpoint.pt or .safetensors, train nothing')
    parser.add_argument('--batch', type=int, default=512)
    parser.add_argument('--lr', type=float, default=1.5e-3)
    parser.add_argument('--drop-path', type=float, default=0.05)
    parser.add_argument('--depth', type=int, default=10)
    parser.add_argument('--dim', type=int, default=128)
    parser.add_argument('--heads', type=int, default=4)
    parser.add_argument('--patch', type=int, default=4)
    parser.add_argument('--limit', type=int, help='only so many images of each split')
    parser.add_argument('--reserve', type=float, default=RESERVE, help='seconds for the evaluation')
    parser.add_argument('--show', type=float, default=10, help='seconds between lines of progress')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--no-compile', dest='compile', action='store_false')
    parser.add_argument('--cpu', action='store_true')
    return parser.parse_args()


def read_weights(path):
    if path.endswith('.safetensors'):
        return load_file(path)
    return torch.load(path, map_location='cpu', weights_only=True)


def main():
    args = arguments()
    start = time.time()
    end = start + 60 * args.minutes
    os.makedirs(args.out, exist_ok=True)
    torch.manual_seed(args.seed)
    cuda = torch.cuda.is_available() and not args.cpu
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32 in the evaluation
    device = torch.device('cuda' if cuda else 'cpu')
    model = make_model(args.depth, args.dim, args.heads, args.patch).to(device)
    print(f'{sum(p.numel() for p in model.parameters())} parameters on '
          f'{torch.cuda.get_device_name() if cuda else "cpu"}', flush=True)
    if args.checkpoint:
        model.load_state_dict(read_weights(args.checkpoint))
    else:
        images, labels = (t[:args.limit].to(device) for t in load(args.data, 'train'))
        steps = train(model, images, labels, end - args.reserve, args)
        print(f'{steps} steps of {args.batch} images, {time.time() - start:.0f} s', flush=True)
        torch.save(model.state_dict(), os.path.join(args.out, 'checkpoint.pt'))
    # A fresh module: no patch dropping, no stochastic depth, nothing compiled.
    trained = model.state_dict()
    model = make_model(args.depth, args.dim, args.heads, args.patch).to(device).eval()
    model.load_state_dict(trained)
    export(model, os.path.join(args.out, 'fashion_vit.safetensors'), list(fashion_folders.LABELS))
    images, labels = (t[:args.limit] for t in load(args.data, 'test'))
    inputs = preprocessed(images, model.pretrained_cfg).to(device)
    evaluate(model, inputs, labels.to(device), end, 100 if cuda else 10, args)
    print(f'{time.time() - start:.0f} s in all', flush=True)


if __name__ == '__main__':
    main()
