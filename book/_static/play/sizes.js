// The size arithmetic of chains of convolutions, as dcganlib.sizes and dcganlib.models have it; no view. A layer is an
// object {channels, kernel, stride, padding, output_padding, dilation, norm, affine, activation, slope, bias, dropout}
// as dcganlib.models.Layer names them, square; kernel is needed, the rest has the defaults of PyTorch.
play.sizes = (() => {
  "use strict";

  // --- One layer ---------------------------------------------------------------------------------------

  /** A value as Python writes it in an error. */
  function repr(value) {
    if (typeof value === "string") return `'${value}'`;
    if (typeof value === "number") return Number.isNaN(value) ? "nan" : String(value);
    return value === null || value === undefined ? "None" : value === true ? "True" : "False";
  }

  function checkIntegers(minimum, values) {
    for (const [name, value] of Object.entries(values)) {
      if (!Number.isInteger(value) || value < minimum) {
        throw new RangeError(`${name} must be an integer of at least ${minimum}, got ${repr(value)}`);
      }
    }
  }

  /** The settings of a layer, with defaults. */
  function settings({ kernel, stride = 1, padding = 0, output_padding = 0, dilation = 1 }) {
    return { kernel, stride, padding, output_padding, dilation };
  }

  /** Output size of a convolution; throws a RangeError that says what is wrong. */
  function convOut(size, layer) {
    const { kernel, stride, padding, dilation } = settings(layer);
    checkIntegers(1, { size, kernel });
    checkIntegers(1, { stride, dilation });
    checkIntegers(0, { padding });
    const extent = dilation * (kernel - 1) + 1;
    const padded = size + 2 * padding;
    if (extent > padded) {
      throw new RangeError(
        `the kernel does not fit: kernel ${kernel} with dilation ${dilation} spans ${extent} pixels, ` +
          `size ${size} with padding ${padding} has ${padded}; use a smaller kernel or more padding`
      );
    }
    return Math.floor((padded - extent) / stride) + 1;
  }

  /** Output size of a transposed convolution; throws a RangeError that says what is wrong. */
  function convTransposeOut(size, layer) {
    const { kernel, stride, padding, output_padding, dilation } = settings(layer);
    checkIntegers(1, { size, kernel });
    checkIntegers(1, { stride, dilation });
    checkIntegers(0, { padding, output_padding });
    if (output_padding >= Math.max(stride, dilation)) {
      throw new RangeError(
        `output_padding must be smaller than stride or dilation: got output_padding ${output_padding} ` +
          `with stride ${stride} and dilation ${dilation}`
      );
    }
    const out = stride * (size - 1) + dilation * (kernel - 1) + 1 - 2 * padding + output_padding;
    if (out < 1) {
      throw new RangeError(
        `nothing is left: size ${size}, kernel ${kernel}, stride ${stride}, padding ${padding}, ` +
          `output_padding ${output_padding}, dilation ${dilation} give ${out} pixels; use less padding`
      );
    }
    return out;
  }

  const outSize = (size, layer, transposed) => (transposed ? convTransposeOut : convOut)(size, layer);

  /** Pixels at the end of the padded row that no window of a convolution reads. */
  function leftOver(size, layer) {
    const { kernel, stride, padding, dilation } = settings(layer);
    return (size + 2 * padding - dilation * (kernel - 1) - 1) % stride;
  }

  /**
   * Every product of a row's layer: [input, output, tap], where weight number `tap` joins two pixels. A convolution
   * has inputs outside the row: these are zeros of the padding. A transposed one has outputs outside: they are cut off.
   */
  function taps(size, layer, transposed) {
    const { kernel, stride, padding, dilation } = settings(layer);
    const stops = transposed ? size : convOut(size, layer);
    const found = [];
    for (let stop = 0; stop < stops; stop++) {
      for (let tap = 0; tap < kernel; tap++) {
        const other = stop * stride - padding + tap * dilation;
        found.push(transposed ? [stop, other, tap] : [other, stop, tap]);
      }
    }
    return found;
  }

  /** A row's layer as a matrix, of outputs by inputs, with `weights[tap]` in its places. */
  function matrix(size, layer, transposed, weights) {
    const out = outSize(size, layer, transposed);
    const rows = Array.from({ length: out }, () => new Array(size).fill(0));
    taps(size, layer, transposed)
      .filter(([input, output]) => input >= 0 && input < size && output >= 0 && output < out)
      .forEach(([input, output, tap]) => (rows[output][input] += weights[tap]));
    return rows;
  }

  // --- A chain of layers -------------------------------------------------------------------------------

  /** Sizes along a chain, the input first. A RangeError has the sizes before the illegal layer as `sizes`. */
  function featureSizes(size, layers, transposed) {
    const sizes = [size];
    layers.forEach((layer, index) => {
      try {
        if (!transposed && (layer.output_padding || 0) !== 0) {
          throw Object.assign(
            new RangeError(`layer ${index + 1} has output_padding, which only a transposed convolution takes`),
            { whole: true }
          );
        }
        sizes.push(outSize(sizes[index], layer, transposed));
      } catch (error) {
        const said = error.whole ? error.message : `layer ${index + 1}, after sizes [${sizes.join(", ")}]: ${error.message}`;
        throw Object.assign(new RangeError(said), { sizes });
      }
    });
    return sizes;
  }

  /** In how many ways the ones of a row reach each pixel after one more layer of a generator. */
  function stamp(row, layer) {
    const counts = new Array(convTransposeOut(row.length, layer)).fill(0);
    taps(row.length, layer, true).forEach(([input, output]) => {
      if (output >= 0 && output < counts.length) counts[output] += row[input];
    });
    return counts;
  }

  /** In how many ways each pixel of a row of `size` reaches what lies after a layer of a discriminator. */
  function collect(row, size, layer) {
    const counts = new Array(size).fill(0);
    taps(size, layer, false).forEach(([input, output]) => {
      if (input >= 0 && input < size) counts[input] += row[output];
    });
    return counts;
  }

  /**
   * Paths along a chain, choosing one weight in each layer, for each of the maps: from the first map to each pixel
   * for a generator, from each pixel to the last map for a discriminator.
   */
  function paths(sizes, layers, transposed) {
    if (transposed) {
      return layers.reduce((rows, layer) => [...rows, stamp(rows[rows.length - 1], layer)], [new Array(sizes[0]).fill(1)]);
    }
    return layers.reduceRight(
      (rows, layer, index) => [collect(rows[0], sizes[index], layer), ...rows],
      [new Array(sizes[layers.length]).fill(1)]
    );
  }

  /**
   * Pixels of the image that one pixel stands for, for each map; the image's edges count for nothing. A unit of a
   * discriminator sees so many (its receptive field), a pixel of a generator's map has a part in so many.
   */
  function fields(layers, transposed) {
    const order = transposed ? [...layers].reverse() : layers;
    const widths = [1];
    let [width, jump] = [1, 1];
    order.map(settings).forEach(({ kernel, stride, dilation }) => {
      width += dilation * (kernel - 1) * jump;
      jump *= stride;
      widths.push(width);
    });
    return transposed ? widths.reverse() : widths;
  }

  /**
   * How many weights of a layer meet at a pixel of the larger map, away from the ends: [least, most]. They are equal
   * where the kernel is a multiple of the stride. Only one window means one weight.
   */
  function coverage(size, layer, transposed) {
    const { kernel, stride, dilation } = settings(layer);
    if ((transposed ? size : convOut(size, layer)) === 1) return [1, 1];
    const phases = new Array(stride).fill(0);
    for (let tap = 0; tap < kernel; tap++) phases[(tap * dilation) % stride] += 1;
    return [Math.min(...phases), Math.max(...phases)];
  }

  /** How far a pixel in the middle half of a row is from the mean of its two neighbours, at most, as a ratio: 1 is no grid. */
  function grain(row) {
    const margin = Math.floor(row.length / 4);
    const ratios = [1];
    for (let at = margin + 1; at < row.length - margin - 1; at++) {
      const mean = (row[at - 1] + row[at + 1]) / 2;
      ratios.push(Math.max(row[at], mean) / Math.min(row[at], mean));
    }
    return Math.max(...ratios);
  }

  // --- Parameters and work -----------------------------------------------------------------------------

  /** Trainable numbers of a layer and what follows it. */
  function parameters(inChannels, layer, outPixels) {
    const { channels, kernel, norm = null, affine = true, bias = false } = layer;
    const units = norm === "batch" ? channels : norm === "batch1d" ? channels * outPixels ** 2 : 0;
    return inChannels * channels * kernel ** 2 + (bias ? channels : 0) + (affine ? 2 * units : 0);
  }

  /** Products of the convolution for one image, those with zeros of the padding and those cut off included. */
  function multiplyAdds(inChannels, layer, inPixels, outPixels, transposed) {
    return inChannels * layer.channels * layer.kernel ** 2 * (transposed ? inPixels : outPixels) ** 2;
  }

  /** All of this about a network {channels, size, layers, transposed}: one entry a layer. Throws as featureSizes does. */
  function describe({ channels, size, layers, transposed }) {
    checkIntegers(1, { channels });
    layers.forEach((layer, index) => checkIntegers(1, { [`channels of layer ${index + 1}`]: layer.channels }));
    const sizes = featureSizes(size, layers, transposed);
    const rows = paths(sizes, layers, transposed);
    const widths = fields(layers, transposed);
    return layers.map((layer, index) => {
      const inChannels = index ? layers[index - 1].channels : channels;
      const [inPixels, outPixels] = [sizes[index], sizes[index + 1]];
      const own = transposed ? stamp(new Array(inPixels).fill(1), layer) : collect(new Array(outPixels).fill(1), inPixels, layer);
      return {
        inChannels,
        inPixels,
        outPixels,
        unread: own.filter((count) => count === 0).length,
        coverage: coverage(inPixels, layer, transposed),
        counts: own,
        paths: rows[transposed ? index + 1 : index],
        field: widths[transposed ? index : index + 1],
        parameters: parameters(inChannels, layer, outPixels),
        multiplyAdds: multiplyAdds(inChannels, layer, inPixels, outPixels, transposed),
      };
    });
  }

  /** What the library says of a chain that does not end where it must; "" if it does. */
  function wrongEnd(sizes, layers, end) {
    const [channels, pixels] = [layers[layers.length - 1].channels, sizes[sizes.length - 1]];
    if (channels === end.channels && pixels === end.size) return "";
    return (
      `the layers give ${channels} channels at ${pixels} pixels (chain [${sizes.join(", ")}]), ` +
      `expected ${end.channels} at ${end.size}`
    );
  }

  // --- Chains for a size -------------------------------------------------------------------------------

  /** Sizes from the image down to 3 or 4 pixels, each half of the last, rounded up. */
  function halvings(imageSize) {
    if (!(imageSize >= 16 && imageSize <= 256)) {
      throw new RangeError(
        `image_size must be from 16 to 256 pixels, got ${repr(imageSize)}; the nearest is ${imageSize < 16 ? 16 : 256}`
      );
    }
    const sizes = [imageSize];
    while (sizes[sizes.length - 1] > 4) sizes.push(Math.floor((sizes[sizes.length - 1] + 1) / 2));
    return sizes;
  }

  /** The standard chain of both networks for an image of any size: {generator, discriminator}, lists of layers. */
  function standardLayers(imageSize, channels, baseChannels) {
    checkIntegers(1, { image_size: imageSize, channels, base_channels: baseChannels });
    const sizes = halvings(imageSize);
    const halve = (size) => ({ kernel: size % 2 ? 3 : 4, stride: 2, padding: 1 });
    const whole = { kernel: sizes[sizes.length - 1], stride: 1, padding: 0 };
    const steps = sizes.slice(0, -1);
    const up = [whole, ...steps.map(halve).reverse()];
    return {
      generator: up.map((step, index) =>
        index < steps.length
          ? { ...step, channels: baseChannels * 2 ** (steps.length - 1 - index), norm: "batch", activation: "relu" }
          : { ...step, channels, norm: null, activation: "tanh" }
      ),
      discriminator: [
        ...steps.map((size, index) => ({
          ...halve(size),
          channels: baseChannels * 2 ** index,
          norm: index ? "batch" : null,
          activation: "leaky_relu",
        })),
        { ...whole, channels: 1, norm: null, activation: null },
      ],
    };
  }

  /** Layers from one size to those that `inside` accepts: without output padding and with small kernels first. */
  function steps(size, wanted, inside) {
    const { transposed, kernel, stride, padding, output_padding, even } = wanted;
    const found = [];
    for (let a = 0; a <= (transposed && output_padding ? stride - 1 : 0); a++) {
      for (let k = 1; k <= kernel; k++) {
        for (let p = 0; p <= Math.min(padding, k - 1); p++) {
          for (let s = Math.min(stride, k); s > a; s--) {
            if (even && k % s) continue;
            const layer = { kernel: k, stride: s, padding: p, output_padding: a };
            if (!transposed && (k > size + 2 * p || leftOver(size, layer) > p)) continue;
            if (transposed && s * (size - 1) + k - 2 * p + a < 1) continue;
            const to = outSize(size, layer, transposed);
            if (inside(to)) found.push({ layer, to });
          }
        }
      }
    }
    return found;
  }

  /**
   * Chains of `count` layers that lead from one size to another, each step to a larger map (transposed) or a smaller one
   * that leaves no pixel unread, with no kernel smaller than its stride and less padding than kernel.
   *
   * wanted: {from, to, count, transposed, even (kernels that are multiples of the stride), output_padding (whether it
   * may be used), and the largest kernel, stride and padding}. Returns {total, chains}: how many there are, and the
   * first `most` of them, lists of layers, those with even coverage first.
   */
  function search(wanted, most = 50) {
    const { from, to, count, kernel, stride, padding } = wanted;
    checkIntegers(1, { from, to, count, kernel, stride });
    checkIntegers(0, { padding });
    const even = plan(from, to, { ...wanted, even: true });
    const all = wanted.even ? even : plan(from, to, wanted);
    const chains = even.list(most);
    if (!wanted.even) chains.push(...all.list(most - chains.length, (chain) => chain.some((one) => one.kernel % one.stride)));
    return { total: all.total, chains };
  }

  /** The chains of `wanted.count` layers between two sizes: {total, list(most, accept)}. */
  function plan(from, to, wanted) {
    const { count, transposed } = wanted;
    const known = new Map(); // the steps from a size that stay between the two ends
    const onward = (size) => {
      if (!known.has(size)) {
        const inside = (next) => (transposed ? next > size && next <= to : next < size && next >= to);
        known.set(size, steps(size, wanted, inside));
      }
      return known.get(size);
    };
    const totals = new Map(); // the chains from a size with so many layers to go
    const total = (size, left) => {
      if (!left) return size === to ? 1 : 0;
      const key = `${size} ${left}`;
      if (!totals.has(key)) totals.set(key, onward(size).reduce((sum, step) => sum + total(step.to, left - 1), 0));
      return totals.get(key);
    };
    const list = (most, accept = () => true) => {
      const chains = [];
      const follow = (size, chain) => {
        if (chain.length === count) {
          if (accept(chain)) chains.push(chain);
          return;
        }
        onward(size).forEach((step) => {
          if (chains.length < most && total(step.to, count - chain.length - 1)) follow(step.to, [...chain, step.layer]);
        });
      };
      if (total(from, count)) follow(from, []);
      return chains;
    };
    return { total: total(from, count), list };
  }

  // --- PyTorch code --------------------------------------------------------------------------------------

  function modules(inChannels, layer, outPixels, transposed) {
    const { channels, norm = null, affine = true, activation = null, slope = 0.2, bias = false, dropout = 0 } = layer;
    const { kernel, stride, padding, output_padding, dilation } = settings(layer);
    const options = [
      [inChannels, channels, kernel].join(", "),
      ...(stride === 1 ? [] : [`stride=${stride}`]),
      ...(padding ? [`padding=${padding}`] : []),
      ...(transposed && output_padding ? [`output_padding=${output_padding}`] : []),
      ...(dilation === 1 ? [] : [`dilation=${dilation}`]),
      ...(bias ? [] : ["bias=False"]),
    ];
    const convolution = `nn.${transposed ? "ConvTranspose2d" : "Conv2d"}(${options.join(", ")})`;
    const gain = affine ? "" : ", affine=False";
    const shape = `${channels}, ${outPixels}, ${outPixels}`;
    return [
      norm === "spectral" ? `nn.utils.parametrizations.spectral_norm(${convolution})` : convolution,
      ...(norm === "batch" ? [`nn.BatchNorm2d(${channels}${gain})`] : []),
      ...(norm === "batch1d"
        ? ["nn.Flatten()", `nn.BatchNorm1d(${channels * outPixels ** 2}${gain})`, `nn.Unflatten(1, (${shape}))`]
        : []),
      ...(activation === "relu" ? ["nn.ReLU()"] : []),
      ...(activation === "leaky_relu" ? [`nn.LeakyReLU(${slope})`] : []),
      ...(activation === "tanh" ? ["nn.Tanh()"] : []),
      ...(dropout ? [`nn.Dropout(${dropout})`] : []),
    ];
  }

  /** A network as PyTorch code, its sizes as comments. Throws as featureSizes does. */
  function torchCode(network, name) {
    const { channels, size, layers, transposed } = network;
    const lines = describe(network).flatMap(({ inChannels, outPixels }, index) => {
      const [first, ...rest] = modules(inChannels, layers[index], outPixels, transposed);
      return [`    ${first},  # ${outPixels} × ${outPixels}`, ...rest.map((line) => `    ${line},`)];
    });
    return [
      "from torch import nn",
      "",
      `${name} = nn.Sequential(  # input: ${channels} × ${size} × ${size}`,
      ...lines,
      ")",
      "",
    ].join("\n");
  }

  return {
    convOut,
    convTransposeOut,
    coverage,
    describe,
    featureSizes,
    fields,
    grain,
    leftOver,
    matrix,
    outSize,
    parameters,
    paths,
    search,
    standardLayers,
    taps,
    torchCode,
    wrongEnd,
  };
})();
