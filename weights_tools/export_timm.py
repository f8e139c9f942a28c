#!/usr/bin/env python3
"""Writes a timm ViT (VisionTransformer, Eva, Beit and kin) as one .safetensors file that vitrun runs without any other file.

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


def is_absent(module):
    import torch
    return module is None or isinstance(module, torch.nn.Identity)


def norm_kind(module, what):
    """(word for norm_layer, eps) of a norm; None for no norm; anything else is refused."""
    import torch
    if is_absent(module):
        return None
    if kind(module) == 'RmsNorm' and module.weight is not None:
        return 'rmsnorm', module.eps
    if not isinstance(module, torch.nn.LayerNorm) or '2d' in kind(module):
        raise Unsupported(f'{what}: {kind(module)}')
    if module.weight is None or module.bias is None:
        raise Unsupported(f'{what}: LayerNorm without weight or bias')
    return 'layernorm', module.eps


def activation(module):
    name = kind(module)
    if name == 'GELU':
        return 'gelu_tanh' if getattr(module, 'approximate', 'none') == 'tanh' else 'gelu'
    known = {'GELUTanh': 'gelu_tanh', 'QuickGELU': 'quick_gelu', 'SiLU': 'silu'}
    if name not in known:
        raise Unsupported(f'activation {name}')
    return known[name]


def single(values, what):
    """The one value that all of them share."""
    found = {value if isinstance(value, (str, int, float, bool, type(None))) else str(value): value
             for value in values}
    if len(found) != 1:
        raise Unsupported(f'{what} differs within the model: {sorted(map(str, found))}')
    return next(iter(found.values()))


def has_bias(linear):
    return linear.bias is not None


def describe_attention(attn, norms):
    """The switches of an attention, whichever of timm's classes it is. Adds its norms to `norms`."""
    known = ('Attention', 'AttentionRope', 'EvaAttention', 'RelPosAttention', 'DiffAttention',
             'ParallelScalingBlock', 'DiffParallelScalingBlock')
    if kind(attn) not in known:
        raise Unsupported(f'attention {kind(attn)}')
    if getattr(attn, 'gate', None) is not None:
        raise Unsupported('gated attention')
    differential = kind(attn).startswith('Diff')
    if differential and attn.dual_lambda:
        raise Unsupported('differential attention with two scalars')
    projection = next(p for p in (getattr(attn, name, None) for name in
                                  ('in_proj', 'qkv', 'q_proj')) if p is not None)
    width = projection.in_features
    single_head = getattr(attn, 'head_dim', width // attn.num_heads)
    head = single_head * (2 if differential else 1)
    if attn.num_heads * head != width:
        raise Unsupported(f'{attn.num_heads} heads of {head} in a width of {width}')
    if abs(attn.scale * single_head ** 0.5 - 1) > 1e-9:
        raise Unsupported(f'attention scale {attn.scale}')
    q_norm = norm_kind(getattr(attn, 'q_norm', None), 'q_norm')
    norms += [q_norm, norm_kind(getattr(attn, 'k_norm', None), 'k_norm')]
    inner = norm_kind(getattr(attn, 'norm', None), 'attn.norm')
    norms.append(inner)
    out = next(p for p in (getattr(attn, name, None) for name in
                           ('proj', 'attn_out_proj', 'out_proj')) if p is not None)
    bias = has_bias(projection) or getattr(attn, 'q_bias', None) is not None
    return dict(embed_dim=width, num_heads=attn.num_heads, qkv_bias=bias,
                qk_norm=q_norm is not None, scale_attn_norm=inner is not None,
                attn_layer='diff' if differential else 'attn'), has_bias(out)


def describe_mlp(mlp, norms):
    """The switches of an MLP, with its hidden width (of each half, where it is gated)."""
    if kind(mlp) not in ('Mlp', 'SwiGLU', 'GluMlp'):
        raise Unsupported(f'MLP {kind(mlp)}')
    gated = kind(mlp) != 'Mlp'
    if gated and (activation(mlp.act) != 'silu' or getattr(mlp, 'gate_last', False)):
        raise Unsupported(f'MLP {kind(mlp)} with activation {activation(mlp.act)}')
    if not gated and activation(mlp.act) == 'silu':
        raise Unsupported('activation SiLU')
    first = [mlp.fc1_g, mlp.fc1_x] if kind(mlp) == 'SwiGLU' else [mlp.fc1]
    inner = norm_kind(getattr(mlp, 'norm', None), 'mlp.norm')
    norms.append(inner)
    return dict(hidden=mlp.fc2.in_features, swiglu_mlp=gated, act=activation(mlp.act),
                scale_mlp_norm=inner is not None), {has_bias(p) for p in (*first, mlp.fc2)}


def describe_parallel(block):
    """timm's parallel blocks: attention and MLP share a projection in."""
    norms = [norm_kind(block.in_norm, 'in_norm')]
    attn, bias = describe_attention(block, norms)
    act = activation(block.mlp_act)
    if act == 'silu':
        raise Unsupported('activation SiLU')
    return dict(attn, hidden=block.in_split[0], swiglu_mlp=False, act=act, scale_mlp_norm=False,
                proj_bias=bias, layer_scale=not is_absent(block.ls), attn_only_layer_scale=False,
                block_fn='ParallelScalingBlock'), norms


def describe_branches(block):
    """timm's blocks of things side by side: two attentions, two MLPs."""
    norms, found = [], []
    if (len(block.attns), len(block.ffns)) != (2, 2):
        raise Unsupported(f'{len(block.attns)} attentions and {len(block.ffns)} MLPs side by side')
    for a, f in zip(block.attns, block.ffns):
        own = [norm_kind(a.norm, 'norm'), norm_kind(f.norm, 'norm')]
        attn, out_bias = describe_attention(a.attn, own)
        mlp, biases = describe_mlp(f.mlp, own)
        scales = {not is_absent(a.ls), not is_absent(f.ls)}
        found.append(dict(attn, **mlp, proj_bias=single(biases | {out_bias}, 'bias'),
                          layer_scale=single(scales, 'layer scale'), attn_only_layer_scale=False,
                          block_fn='ParallelThingsBlock'))
        norms += own
    args = {key: single((f[key] for f in found), key) for key in found[0]}
    if args['qk_norm'] or args['scale_attn_norm'] or args['scale_mlp_norm'] or args['swiglu_mlp']:
        raise Unsupported('norms or gates inside things side by side')
    return args, norms


def describe_block(block):
    """The switches of one block as a dict of model_args, and its norms; refuses what has none."""
    kinds = {'Block': 'Block', 'EvaBlock': 'Block', 'RelPosBlock': 'Block',
             'ResPostBlock': 'ResPostBlock', 'ResPostRelPosBlock': 'ResPostBlock',
             'EvaBlockPostNorm': 'ResPostBlock'}
    if kind(block) in ('ParallelScalingBlock', 'DiffParallelScalingBlock'):
        return describe_parallel(block)
    if kind(block) == 'ParallelThingsBlock':
        return describe_branches(block)
    if kind(block) not in kinds:
        raise Unsupported(f'block {kind(block)}')
    norms = [norm_kind(block.norm1, 'norm1'), norm_kind(block.norm2, 'norm2')]
    attn, out_bias = describe_attention(block.attn, norms)
    mlp, biases = describe_mlp(block.mlp, norms)
    scales = [not is_absent(getattr(block, ls, None)) or getattr(block, gamma, None) is not None
              for ls, gamma in (('ls1', 'gamma_1'), ('ls2', 'gamma_2'))]
    if scales == [False, True]:
        raise Unsupported('layer scale of the MLP only')
    return dict(attn, **mlp, proj_bias=single(biases | {out_bias}, 'bias of proj, fc1, fc2'),
                layer_scale=scales[0], attn_only_layer_scale=scales == [True, False],
                block_fn=kinds[kind(block)]), norms


def mlp_ratio(width, hidden):
    """A ratio for which int(width * ratio) is exactly `hidden`, short where one exists."""
    for ratio in (hidden / width, (hidden + 0.5) / width):
        if int(width * ratio) == hidden:
            return ratio
    raise AssertionError((width, hidden))


def check_class(model):
    """Refuses what is no plain ViT by the name of the part that differs."""
    others = {
        'VisionTransformerSAM': 'windowed attention (SAM)',
        'NaFlexVit': 'variable-size sequences (NaFlexViT)',
    }
    name = kind(model)
    if name not in ('VisionTransformer', 'VisionTransformerDistilled', 'Eva', 'Beit',
                    'VisionTransformerRelPos'):
        raise Unsupported(others.get(name, f'model class {name}'))
    if model.global_pool not in ('token', 'avg', 'max', 'avgmax', 'map'):
        raise Unsupported(f'global_pool {model.global_pool!r}')
    if kind(model.patch_embed) != 'PatchEmbed':
        raise Unsupported('a convolutional stem (hybrid)')


def describe_rope(model):
    """The rotary position embedding as model_args."""
    rope = getattr(model, 'rope', None)
    if rope is None:
        return dict(rope_type='none')
    words = {'RotaryEmbeddingCat': 'cat', 'RotaryEmbeddingMixed': 'mixed',
             'RotaryEmbeddingDinoV3': 'dinov3'}
    if kind(rope) not in words:
        raise Unsupported(f'rotary position embedding {kind(rope)}')
    args = dict(rope_type=words[kind(rope)], rope_grid_indexing=rope.grid_indexing)
    if args['rope_type'] == 'mixed':
        return args
    # some versions of timm lack some of these settings
    plain = dict(in_pixels=False, grid_type='index') if args['rope_type'] == 'cat' else \
        dict(grid_offset=0, min_period=None, normalize_coords='separate')
    for name, value in plain.items():
        if getattr(rope, name, value) != value:
            raise Unsupported(f'rotary position embedding with {name} {getattr(rope, name)}')
    reference = getattr(rope, 'ref_feat_shape', None)
    args.update(rope_temperature=rope.temperature,
                rope_rotate_half=getattr(model.blocks[0].attn, 'rotate_half', False))
    if rope.grid_offset:
        args['rope_grid_offset'] = rope.grid_offset
    if reference is not None:
        args['ref_feat_shape'] = list(reference)
    return args


def describe_relative(model):
    """The relative position bias as model_args."""
    names = {getattr(model, 'shared_rel_pos', None), getattr(model, 'rel_pos_bias', None)}
    for block in model.blocks:
        attn = getattr(block, 'attn', None)
        names.add(getattr(attn, 'rel_pos', None))
        if getattr(attn, 'relative_position_bias_table', None) is not None:
            return dict(rel_pos_type='bias')
    kinds = {kind(module) for module in names if module is not None}
    if not kinds:
        return dict(rel_pos_type='none')
    if single(kinds, 'relative position bias') == 'RelPosMlp':
        module = next(module for module in names if module is not None)
        if any(module.pretrained_window_size):
            raise Unsupported('relative position bias of another window')
        return dict(rel_pos_type='mlp-swin' if module.mode == 'swin' else 'mlp')
    return dict(rel_pos_type='bias')


def describe_pool(model, norms):
    """Attention pooling as model_args."""
    pool = getattr(model, 'attn_pool', None)
    if pool is None:
        return {}
    if kind(pool) != 'AttentionPoolLatent' or pool.latent_len != 1 or pool.pool != 'token':
        raise Unsupported(f'attention pooling {kind(pool)}')
    if not is_absent(pool.q_norm) or pool.pos_embed is not None or is_absent(pool.q) \
            or pool.q.bias is None or pool.mlp is None:
        raise Unsupported('attention pooling with parts of its own')
    norms.append(norm_kind(pool.norm, 'attn_pool.norm'))
    return dict(attn_pool_num_heads=pool.num_heads,
                attn_pool_mlp_ratio=mlp_ratio(model.embed_dim, pool.mlp.fc1.out_features))


def describe(model):
    """Every switch of the forward pass as model_args (the names of timm's constructors where they have
    one, plus norm_eps, act, distilled). Raises Unsupported."""
    check_class(model)
    found = [describe_block(b) for b in model.blocks]
    if not found:
        raise Unsupported('a model without blocks')
    args = {key: single((b[key] for b, _ in found), key) for key in found[0][0]}
    own = {what: norm_kind(getattr(model, what, None), what)
           for what in ('norm_pre', 'norm', 'fc_norm')}
    own['embed'] = norm_kind(model.patch_embed.norm, 'patch_embed.norm')
    norms = [*own.values(), *(norm for _, norms in found for norm in norms)]
    pool = describe_pool(model, norms)
    norm_layer, norm_eps = single((norm for norm in norms if norm is not None), 'norm')
    if pool and args['act'] != activation(model.attn_pool.mlp.act):
        raise Unsupported('attention pooling of another activation')
    embed = model.patch_embed
    hidden = args.pop('hidden')
    position = getattr(model, 'pos_embed', None)
    registers = getattr(model, 'reg_token', None)
    # what Eva pools by attention is all tokens
    include = getattr(model, 'pool_include_prefix', kind(model) == 'Eva' and bool(pool))
    return dict(
        img_size=list(embed.img_size), patch_size=list(embed.patch_size),
        in_chans=embed.proj.in_channels, num_classes=model.num_classes,
        global_pool=model.global_pool, embed_dim=args.pop('embed_dim'), depth=len(model.blocks),
        num_heads=args.pop('num_heads'), mlp_ratio=mlp_ratio(model.embed_dim, hidden),
        init_values=1.0 if args.pop('layer_scale') else None,
        class_token=model.cls_token is not None,
        distilled=kind(model) == 'VisionTransformerDistilled',
        no_embed_class=bool(getattr(model, 'no_embed_class', False)),
        reg_tokens=0 if registers is None else registers.shape[1],
        pos_embed='none' if position is None else 'learn',
        pre_norm=own['norm_pre'] is not None,
        final_norm=own['norm'] is not None or own['fc_norm'] is not None,
        fc_norm=own['fc_norm'] is not None, pool_include_prefix=include,
        embed_norm_layer=norm_layer if own['embed'] else None, norm_layer=norm_layer,
        norm_eps=norm_eps, **args, **pool, **describe_rope(model), **describe_relative(model))


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
    """Writes `model` to `path`. Raises Unsupported."""
    import torch
    from safetensors.torch import save_file
    doc = config(model, label_names)
    tensors = {}
    for name, value in model.state_dict().items():
        value = value.detach().cpu()
        if value.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            value = value.float()
        tensors[name] = value.clone().contiguous()
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
