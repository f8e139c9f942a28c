#!/usr/bin/env python3
"""Writes a timm VisionTransformer as one .safetensors file that vitrun runs without any other file.

    export_timm.py vit_base_patch16_224 --pretrained -o vit_base.safetensors
    export_timm.py vit_small_patch16_224 --checkpoint mine.pth --classes 10 -o mine.safetensors

The tensors are the model's state_dict, names and shapes unchanged. The metadata entry
`vitrun.config` holds what shapes cannot tell, in the form of a hub config.json: architecture,
model_args, num_classes, global_pool, label_names, pretrained_cfg. model_args are read from the live
modules, so a model built with its own settings is described as it is, not as its name says.

A model with a part that vitrun lacks is refused by the name of that part. Needs torch, timm and
safetensors; vitrun itself needs none of them.
"""
import argparse
import json
import os
import sys


class Unsupported(ValueError):
    """The model has a part that vitrun does not implement; the text names it."""


def kind(module):
    return type(module).__name__


def norm_eps(module, what):
    """eps of a LayerNorm with weight and bias, None for no norm; anything else is refused."""
    import torch
    if isinstance(module, torch.nn.Identity):
        return None
    if 'Rms' in kind(module) or 'RMS' in kind(module):
        raise Unsupported('RMSNorm')
    if not isinstance(module, torch.nn.LayerNorm) or '2d' in kind(module):
        raise Unsupported(f'{what}: {kind(module)}')
    if module.weight is None or module.bias is None:
        raise Unsupported(f'{what}: LayerNorm without weight or bias')
    return module.eps


def activation(module):
    name = kind(module)
    if name == 'GELU':
        return 'gelu_tanh' if getattr(module, 'approximate', 'none') == 'tanh' else 'gelu'
    known = {'GELUTanh': 'gelu_tanh', 'QuickGELU': 'quick_gelu'}
    if name not in known:
        raise Unsupported(f'activation {name}')
    return known[name]


def single(values, what):
    """The one value that all blocks share."""
    found = set(values)
    if len(found) != 1:
        raise Unsupported(f'{what} differs between blocks: {sorted(map(str, found))}')
    return found.pop()


def describe_block(block):
    """The switches of one block as a dict of model_args; refuses what is not timm's Block."""
    import torch
    block_kinds = {
        'ResPostBlock': 'norm after attention and MLP',
        'ParallelScalingBlock': 'parallel attention and MLP',
        'DiffParallelScalingBlock': 'differential attention',
        'ParallelThingsBlock': 'parallel blocks',
    }
    if kind(block) != 'Block':
        raise Unsupported(block_kinds.get(kind(block), f'block {kind(block)}'))
    attn, mlp = block.attn, block.mlp
    if kind(attn) != 'Attention':
        raise Unsupported({'DiffAttention': 'differential attention',
                           'AttentionRope': 'rotary position embedding'}
                          .get(kind(attn), f'attention {kind(attn)}'))
    if kind(mlp) != 'Mlp':
        raise Unsupported({'SwiGLU': 'SwiGLU', 'SwiGLUPacked': 'SwiGLU', 'GluMlp': 'SwiGLU'}
                          .get(kind(mlp), f'MLP {kind(mlp)}'))
    if norm_eps(getattr(attn, 'norm', torch.nn.Identity()), 'attn.norm') is not None:
        raise Unsupported('norm on the attention output (attn.norm)')
    if norm_eps(mlp.norm, 'mlp.norm') is not None:
        raise Unsupported('norm inside the MLP (mlp.norm)')
    if getattr(attn, 'gate', None) is not None:
        raise Unsupported('gated attention')
    width = attn.qkv.in_features
    if attn.num_heads * attn.head_dim != width or attn.qkv.out_features != 3 * width:
        raise Unsupported(f'{attn.num_heads} heads of {attn.head_dim} in a width of {width}')
    if abs(attn.scale * attn.head_dim ** 0.5 - 1) > 1e-9:
        raise Unsupported(f'attention scale {attn.scale}')
    eps = {e for e in (norm_eps(block.norm1, 'norm1'), norm_eps(block.norm2, 'norm2'),
                       norm_eps(attn.q_norm, 'q_norm'), norm_eps(attn.k_norm, 'k_norm'))
           if e is not None}
    if len(eps) != 1:
        raise Unsupported(f'norms of different eps in a block: {sorted(eps)}')
    q_norm = norm_eps(attn.q_norm, 'q_norm') is not None
    biases = {attn.proj.bias is not None, mlp.fc1.bias is not None, mlp.fc2.bias is not None}
    if len(biases) != 1:
        raise Unsupported('proj, fc1 and fc2 must all have a bias, or none of them')
    scales = [kind(block.ls1), kind(block.ls2)]
    if scales not in (['Identity'] * 2, ['LayerScale'] * 2):
        raise Unsupported(f'layer scale {scales}')
    return dict(embed_dim=width, num_heads=attn.num_heads, hidden=mlp.fc1.out_features,
                qkv_bias=attn.qkv.bias is not None, proj_bias=biases.pop(), qk_norm=q_norm,
                layer_scale=scales[0] == 'LayerScale', norm_eps=eps.pop(), act=activation(mlp.act))


def mlp_ratio(width, hidden):
    """A ratio for which int(width * ratio) is exactly `hidden`, short where one exists."""
    for ratio in (hidden / width, (hidden + 0.5) / width):
        if int(width * ratio) == hidden:
            return ratio
    raise AssertionError((width, hidden))


def check_class(model):
    """Refuses what is not timm's VisionTransformer by the name of the part that differs."""
    others = {
        'Eva': 'the EVA block',
        'Beit': 'relative position bias (BEiT)',
        'VisionTransformerRelPos': 'relative position bias',
        'VisionTransformerSAM': 'windowed attention (SAM)',
        'NaFlexVit': 'variable-size sequences (NaFlexViT)',
    }
    name = kind(model)
    if name == 'Eva':
        if getattr(model, 'rope', None) is not None:
            raise Unsupported('rotary position embedding')
        raise Unsupported(others[name])
    if name not in ('VisionTransformer', 'VisionTransformerDistilled'):
        raise Unsupported(others.get(name, f'model class {name}'))
    if model.attn_pool is not None:
        raise Unsupported('attention pooling')
    if model.global_pool not in ('token', 'avg', 'max', 'avgmax'):
        raise Unsupported(f'global_pool {model.global_pool!r}')
    if kind(model.patch_embed) != 'PatchEmbed':
        raise Unsupported('a convolutional stem (hybrid)')
    if norm_eps(model.patch_embed.norm, 'patch_embed.norm') is not None:
        raise Unsupported('norm after the patch embedding (patch_embed.norm)')


def describe(model):
    """Every switch of the forward pass as model_args (timm's constructor names, plus norm_eps, act
    and distilled). Raises Unsupported."""
    check_class(model)
    blocks = [describe_block(b) for b in model.blocks]
    if not blocks:
        raise Unsupported('a model without blocks')
    args = {key: single((b[key] for b in blocks), key) for key in blocks[0]}
    norms = {what: norm_eps(getattr(model, what), what) for what in ('norm_pre', 'norm', 'fc_norm')}
    for what, eps in norms.items():
        if eps not in (None, args['norm_eps']):
            raise Unsupported(f'{what}: eps {eps}, the blocks have {args["norm_eps"]}')
    embed = model.patch_embed
    distilled = kind(model) == 'VisionTransformerDistilled'
    hidden = args.pop('hidden')
    return dict(
        img_size=list(embed.img_size), patch_size=list(embed.patch_size),
        in_chans=embed.proj.in_channels, num_classes=model.num_classes,
        global_pool=model.global_pool, embed_dim=args.pop('embed_dim'), depth=len(blocks),
        num_heads=args.pop('num_heads'), mlp_ratio=mlp_ratio(model.embed_dim, hidden),
        qkv_bias=args.pop('qkv_bias'), qk_norm=args.pop('qk_norm'), proj_bias=args.pop('proj_bias'),
        init_values=1.0 if args.pop('layer_scale') else None,
        class_token=model.cls_token is not None, distilled=distilled,
        no_embed_class=model.no_embed_class,
        reg_tokens=0 if model.reg_token is None else model.reg_token.shape[1],
        pos_embed='none' if model.pos_embed is None else 'learn',
        pre_norm=norms['norm_pre'] is not None,
        final_norm=norms['norm'] is not None or norms['fc_norm'] is not None,
        fc_norm=norms['fc_norm'] is not None, pool_include_prefix=model.pool_include_prefix,
        norm_eps=args.pop('norm_eps'), act=args.pop('act'))


def tensor_shapes(a):
    """{name: shape} of the state_dict that model_args `a` describe, by timm's names."""
    width, hidden = a['embed_dim'], int(a['embed_dim'] * a['mlp_ratio'])
    (img_h, img_w), (patch_h, patch_w) = a['img_size'], a['patch_size']
    prefix = a['class_token'] + a['distilled'] + a['reg_tokens']
    positions = (img_h // patch_h) * (img_w // patch_w) + (0 if a['no_embed_class'] else prefix)
    shapes = {}

    def norm(name, present=True, size=width):
        if present:
            shapes[name + '.weight'] = shapes[name + '.bias'] = (size,)

    def linear(name, rows, cols, bias=True):
        shapes[name + '.weight'] = (rows, cols)
        if bias:
            shapes[name + '.bias'] = (rows,)

    if a['class_token']:
        shapes['cls_token'] = (1, 1, width)
    if a['reg_tokens']:
        shapes['reg_token'] = (1, a['reg_tokens'], width)
    if a['pos_embed'] == 'learn':
        shapes['pos_embed'] = (1, positions, width)
    if a['distilled']:
        shapes['dist_token'] = (1, 1, width)
    shapes['patch_embed.proj.weight'] = (width, a['in_chans'], patch_h, patch_w)
    if not a['pre_norm']:
        shapes['patch_embed.proj.bias'] = (width,)
    norm('norm_pre', a['pre_norm'])
    for i in range(a['depth']):
        b = f'blocks.{i}.'
        norm(b + 'norm1')
        linear(b + 'attn.qkv', 3 * width, width, a['qkv_bias'])
        norm(b + 'attn.q_norm', a['qk_norm'], width // a['num_heads'])
        norm(b + 'attn.k_norm', a['qk_norm'], width // a['num_heads'])
        linear(b + 'attn.proj', width, width, a['proj_bias'])
        norm(b + 'norm2')
        linear(b + 'mlp.fc1', hidden, width, a['proj_bias'])
        linear(b + 'mlp.fc2', width, hidden, a['proj_bias'])
        if a['init_values'] is not None:
            shapes[b + 'ls1.gamma'] = shapes[b + 'ls2.gamma'] = (width,)
    norm('norm', a['final_norm'] and not a['fc_norm'])
    norm('fc_norm', a['final_norm'] and a['fc_norm'])
    if a['num_classes']:
        linear('head', a['num_classes'], width)
        if a['distilled']:
            linear('head_dist', a['num_classes'], width)
    return shapes


def preprocessing(model, args):
    """pretrained_cfg: timm's own answer for the model, at the size that the model has."""
    from timm.data import resolve_data_config
    known = getattr(model, 'pretrained_cfg', None) or {}
    size = (args['in_chans'], *args['img_size'])
    data = resolve_data_config(pretrained_cfg={**known, 'input_size': size})
    cfg = {key: data[key] for key in ('interpolation', 'crop_pct', 'crop_mode')}
    cfg.update(mean=list(data['mean']), std=list(data['std']),
               input_size=list(size), num_classes=args['num_classes'])
    if known.get('tag'):
        cfg['tag'] = known['tag']
    return cfg


def config(model, label_names=None):
    """The document that the metadata entry `vitrun.config` holds, as a dict."""
    args = describe(model)
    known = getattr(model, 'pretrained_cfg', None) or {}
    labels = label_names or known.get('label_names')
    doc = dict(architecture=known.get('architecture') or 'vision_transformer',
               num_classes=args['num_classes'], global_pool=args['global_pool'], model_args=args,
               pretrained_cfg=preprocessing(model, args))
    if labels:
        if len(labels) != args['num_classes']:
            raise ValueError(f'{len(labels)} label names for {args["num_classes"]} classes')
        doc['label_names'] = list(labels)
    return doc


def export(model, path, label_names=None):
    """Writes `model` (a timm VisionTransformer) to `path`. Raises Unsupported."""
    import torch
    from safetensors.torch import save_file
    doc = config(model, label_names)
    tensors = {}
    for name, value in model.state_dict().items():
        value = value.detach().cpu()
        if value.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            value = value.float()
        tensors[name] = value.clone().contiguous()
    expected = tensor_shapes(doc['model_args'])
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if found != expected:
        odd = sorted(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n))
        raise Unsupported(f'tensor {odd[0]}: shape {found.get(odd[0])}, expected '
                          f'{expected.get(odd[0])}')
    partial = f'{path}.partial'
    try:
        save_file(tensors, partial, metadata={'format': 'pt', 'vitrun.config': json.dumps(doc)})
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('model', help='a timm model name, with or without .tag')
    parser.add_argument('-o', '--output', required=True, help='the .safetensors file to write')
    source = parser.add_mutually_exclusive_group()
    source.add_argument('--pretrained', action='store_true', help="timm's weights for that name")
    source.add_argument('--checkpoint', help='a .pth, .bin or .safetensors file with the weights')
    parser.add_argument('--classes', type=int, help='number of classes, where it is not the usual')
    parser.add_argument('--img-size', type=int, help='image size, where it is not the usual')
    parser.add_argument('--labels', help='a file with one class name a line')
    args = parser.parse_args()
    import timm
    extra = {} if args.img_size is None else {'img_size': args.img_size}
    if args.classes is not None:
        extra['num_classes'] = args.classes
    labels = None
    if args.labels:
        with open(args.labels, encoding='utf-8') as lines:
            labels = lines.read().splitlines()
    try:
        model = timm.create_model(args.model, pretrained=args.pretrained,
                                  checkpoint_path=args.checkpoint or '', **extra)
        export(model.eval(), args.output, labels)
    except (Unsupported, ValueError, RuntimeError, OSError) as error:
        kind_of = 'vitrun cannot run this model: ' if isinstance(error, Unsupported) else ''
        sys.exit(f'export_timm.py: {args.model}: {kind_of}{str(error) or kind(error)}')


if __name__ == '__main__':
    main()
