// Draws images in a browser with a generator that dcganlib.viz.web has packed. A classic script without dependencies:
//
//     const generator = await dcgan.load(dcgan.packed.NAME);
//     const z = dcgan.sampleZ(seed, 1, generator.latentDim, generator.prior)[0];
//     dcgan.paint(canvas, generator.draw(z, label), generator);
//
// The latents of a seed are those of torch.manual_seed(seed), so that a seed draws what `dcganlib sample` draws.
window.dcgan = (() => {
  "use strict";

  // --- Text to weights --------------------------------------------------------------------------------------

  const REPLACED = [0x00, 0x09, 0x0a, 0x0d, 0x22, 0x26, 0x3c, 0x5c]; // NUL, tab, line ends, " & < \

  /** `length` bytes from a text as `web.to_text` writes it: 7 bits an ASCII character, 14 one of two bytes. */
  function decode(text, length) {
    const bytes = new Uint8Array(length + 1);
    let count = 0;
    let held = 0;
    let bits = 0;
    const push = (seven) => {
      held = ((held << 7) | seven) & 0x7fff;
      bits += 7;
      if (bits >= 8) {
        bits -= 8;
        bytes[count++] = (held >> bits) & 0xff;
      }
    };
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i);
      if (code < 0x80) push(code);
      else {
        push(REPLACED[(code >> 7) & 7]);
        push(code & 0x7f);
      }
    }
    return bytes.subarray(0, length);
  }

  async function gunzip(bytes) {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  /** The numbers that 16 bits stand for, in IEEE 754's half precision. */
  function halves() {
    const table = new Float32Array(65536);
    for (let bits = 0; bits < 65536; bits++) {
      const sign = bits & 0x8000 ? -1 : 1;
      const exponent = (bits >> 10) & 31;
      const fraction = bits & 1023;
      table[bits] = sign * (exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction);
    }
    return table;
  }

  const blocksOf = (count) => Math.ceil(count / 4);

  /** One convolution's weights, 4 rows side by side; a row is a place of the kernel in an output channel. */
  function packRows(layer, weight) {
    const rows = layer.out * layer.kernel ** 2;
    const packed = new Float64Array(4 * blocksOf(rows) * layer.in);
    for (let i = 0; i < layer.in; i++) {
      for (let row = 0; row < rows; row++) packed[((row >> 2) * layer.in + i) * 4 + (row & 3)] = weight[i * rows + row];
    }
    return packed;
  }

  /** All convolutions of a packed generator, in the order of their weights. */
  function convolutions(layers) {
    return layers.flatMap((layer) => (layer.branch ? [...(layer.skip ? [layer.skip] : []), ...layer.branch] : [layer]));
  }

  /** Read a generator that the script of a packed one has put into `dcgan.packed`. */
  async function load(packed) {
    const bytes = await gunzip(decode(packed.weights, packed.bytes));
    const layers = structuredClone(packed.layers);
    const found = convolutions(layers);
    const floats = new Float32Array(bytes.buffer, 0, 2 * found.reduce((sum, layer) => sum + layer.affine, 0));
    const sizes = found.map((layer) => (layer.in + layer.classes) * layer.out * layer.kernel ** 2);
    const total = sizes.reduce((sum, size) => sum + size, 0);
    const high = bytes.subarray(floats.byteLength, floats.byteLength + total);
    const low = bytes.subarray(floats.byteLength + total);
    const table = halves();
    let at = 0;
    let float = 0;
    found.forEach((layer, index) => {
      const weight = new Float32Array(sizes[index]);
      for (let i = 0; i < weight.length; i++) weight[i] = table[(high[at + i] << 8) | low[at + i]];
      at += weight.length;
      layer.scale = floats.subarray(float, float + layer.affine);
      layer.shift = floats.subarray(float + layer.affine, float + 2 * layer.affine);
      float += 2 * layer.affine;
      layer.rows = packRows(layer, weight);
      layer.ofClass = weight.subarray(layer.in * layer.out * layer.kernel ** 2); // a row of numbers for each class
    });
    return new Generator(packed, layers);
  }

  // --- Layers: maps are Float64Arrays of channels, rows and columns -----------------------------------------------

  /** The pixels of all channels, 4 pixels side by side. */
  function packPixels(maps, channels, pixels) {
    const packed = new Float64Array(4 * blocksOf(pixels) * channels);
    for (let i = 0; i < channels; i++) {
      for (let p = 0; p < pixels; p++) packed[((p >> 2) * channels + i) * 4 + (p & 3)] = maps[i * pixels + p];
    }
    return packed;
  }

  /**
   * The products of all rows of weights and all pixels. Four rows and four pixels at a time: 16 sums stay in registers,
   * and each number is read once for four products. In double precision, as single precision costs conversions here.
   */
  function multiply(layer, maps, pixels, starts) {
    const channels = layer.in;
    const weights = layer.rows;
    const width = 4 * blocksOf(pixels);
    const product = new Float64Array((weights.length / channels) * width);
    for (let row = 0, to = 0; to < product.length; row += 4, to += 4 * width) {
      const [a, b, c, d] = [0, 1, 2, 3].map((more) => (starts && starts[row + more]) || 0);
      for (let at = 0; at < width; at += 4) {
        let a0 = a, a1 = a, a2 = a, a3 = a, b0 = b, b1 = b, b2 = b, b3 = b; // prettier-ignore
        let c0 = c, c1 = c, c2 = c, c3 = c, d0 = d, d1 = d, d2 = d, d3 = d; // prettier-ignore
        const end = (row + 4) * channels;
        for (let w = row * channels, p = at * channels; w < end; w += 4, p += 4) {
          const x0 = maps[p], x1 = maps[p + 1], x2 = maps[p + 2], x3 = maps[p + 3]; // prettier-ignore
          const wa = weights[w], wb = weights[w + 1], wc = weights[w + 2], wd = weights[w + 3]; // prettier-ignore
          a0 += wa * x0; a1 += wa * x1; a2 += wa * x2; a3 += wa * x3; // prettier-ignore
          b0 += wb * x0; b1 += wb * x1; b2 += wb * x2; b3 += wb * x3; // prettier-ignore
          c0 += wc * x0; c1 += wc * x1; c2 += wc * x2; c3 += wc * x3; // prettier-ignore
          d0 += wd * x0; d1 += wd * x1; d2 += wd * x2; d3 += wd * x3; // prettier-ignore
        }
        let o = to + at;
        product[o] = a0; product[o + 1] = a1; product[o + 2] = a2; product[o + 3] = a3; // prettier-ignore
        o += width;
        product[o] = b0; product[o + 1] = b1; product[o + 2] = b2; product[o + 3] = b3; // prettier-ignore
        o += width;
        product[o] = c0; product[o + 1] = c1; product[o + 2] = c2; product[o + 3] = c3; // prettier-ignore
        o += width;
        product[o] = d0; product[o + 1] = d1; product[o + 2] = d2; product[o + 3] = d3; // prettier-ignore
      }
    }
    return product;
  }

  /** Add each row of products where its place in the kernel says; what falls outside of the map is padding. */
  function scatter(layer, product, size) {
    const { kernel, stride, padding, out } = layer;
    const larger = (size - 1) * stride - 2 * padding + kernel + layer.output_padding;
    const width = 4 * blocksOf(size * size);
    const maps = new Float64Array(out * larger * larger);
    const first = (tap) => Math.max(0, Math.ceil((padding - tap) / stride));
    const last = (tap) => Math.min(size - 1, Math.floor((larger - 1 + padding - tap) / stride));
    for (let channel = 0; channel < out; channel++) {
      for (let tap = 0; tap < kernel * kernel; tap++) {
        const down = Math.floor(tap / kernel);
        const right = tap % kernel;
        const row = (channel * kernel * kernel + tap) * width;
        const begin = first(right);
        const end = last(right);
        for (let y = first(down); y <= last(down); y++) {
          const to = (channel * larger + y * stride - padding + down) * larger - padding + right;
          for (let x = begin; x <= end; x++) maps[to + x * stride] += product[row + y * size + x];
        }
      }
    }
    return maps;
  }

  const ACTIVATIONS = {
    relu: (value) => (value > 0 ? value : 0),
    leaky_relu: (value, slope) => (value > 0 ? value : slope * value),
    tanh: Math.tanh,
  };

  /** A transposed convolution of square maps, its scale and shift (batch norm and bias) and its activation. */
  function convolve(layer, maps, label) {
    const size = Math.sqrt(maps.length / layer.in);
    const count = layer.out * layer.kernel ** 2;
    const starts = layer.classes ? layer.ofClass.subarray(label * count, (label + 1) * count) : null;
    const product = multiply(layer, packPixels(maps, layer.in, size * size), size * size, starts);
    const out = scatter(layer, product, size);
    const activate = ACTIVATIONS[layer.activation] || ((value) => value);
    const each = out.length / layer.affine; // numbers that share a scale: a channel's, or one
    for (let i = 0; i < layer.affine; i++) {
      for (let j = i * each; j < (i + 1) * each; j++) {
        out[j] = activate(out[j] * layer.scale[i] + layer.shift[i], layer.slope);
      }
    }
    return out;
  }

  /** Bilinear, as torch's `interpolate` without aligned corners. */
  function resize(maps, size, larger) {
    const places = Array.from({ length: larger }, (_, index) => {
      const at = Math.max(0, ((index + 0.5) * size) / larger - 0.5);
      const before = Math.floor(at);
      return [before, Math.min(before + 1, size - 1), at - before];
    });
    const channels = maps.length / (size * size);
    const out = new Float64Array(channels * larger * larger);
    for (let channel = 0, to = 0; channel < channels; channel++) {
      const from = channel * size * size;
      for (const [top, bottom, down] of places) {
        for (const [left, right, along] of places) {
          const above = maps[from + top * size + left] * (1 - along) + maps[from + top * size + right] * along;
          const below = maps[from + bottom * size + left] * (1 - along) + maps[from + bottom * size + right] * along;
          out[to++] = above * (1 - down) + below * down;
        }
      }
    }
    return out;
  }

  /** A residual block: adapt the channels, resample, add the branch of convolutions. */
  function residual(layer, maps, label) {
    let base = layer.skip ? convolve(layer.skip, maps, label) : maps;
    const size = Math.sqrt(base.length / layer.out);
    if (layer.size !== size) base = resize(base, size, layer.size);
    const branch = layer.branch.reduce((values, one) => convolve(one, values), base);
    return base.map((value, index) => value + branch[index]);
  }

  class Generator {
    constructor(packed, layers) {
      this.name = packed.name;
      this.imageSize = packed.image_size;
      this.channels = packed.channels;
      this.latentDim = packed.latent_dim;
      this.classes = packed.classes; // names; none for a generator without classes
      this.prior = packed.prior;
      this.directions = packed.directions; // unit vectors, strongest first: {name, vector}
      this.layers = layers;
    }

    /** An image, channel by channel, from -1 to 1, from a latent and, if there are classes, one's number. */
    draw(z, label = 0) {
      if (z.length !== this.latentDim) throw new Error(`z must have ${this.latentDim} numbers, got ${z.length}`);
      if (this.classes.length && this.classes[label] === undefined) {
        throw new Error(`label must be from 0 to ${this.classes.length - 1}, got ${label}`);
      }
      return this.layers.reduce(
        (maps, layer) => (layer.branch ? residual : convolve)(layer, maps, label),
        Float64Array.from(z)
      );
    }
  }

  // --- Images -----------------------------------------------------------------------------------------------

  /** From -1 to 1 to a byte, as `datasets.to_uint8`; ImageData's own rounding is torch's, to even. */
  function toPixels(image, { imageSize, channels }) {
    const pixels = new ImageData(imageSize, imageSize);
    const count = imageSize * imageSize;
    for (let i = 0; i < count; i++) {
      for (let c = 0; c < 3; c++) {
        pixels.data[4 * i + c] = (Math.fround(image[channels === 1 ? i : c * count + i]) + 1) * 127.5;
      }
      pixels.data[4 * i + 3] = 255;
    }
    return pixels;
  }

  /** Put an image into a canvas, which gets its size. */
  function paint(canvas, image, generator) {
    canvas.width = canvas.height = generator.imageSize;
    canvas.getContext("2d").putImageData(toPixels(image, generator), 0, 0);
  }

  // --- Latents ------------------------------------------------------------------------------------------------

  /** The Mersenne twister, as torch seeds it: a function that gives the next 32 bits. */
  function twister(seed) {
    const state = new Uint32Array(624);
    state[0] = seed;
    for (let i = 1; i < 624; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
    let next = 624;
    return () => {
      if (next === 624) {
        for (let i = 0; i < 624; i++) {
          const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
          state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
        }
        next = 0;
      }
      let y = state[next++];
      y ^= y >>> 11;
      y ^= (y << 7) & 0x9d2c5680;
      y ^= (y << 15) & 0xefc60000;
      return (y ^ (y >>> 18)) >>> 0;
    };
  }

  /** 16 uniform numbers become 16 normal ones, as torch does it (Box and Muller 1958), 8 numbers apart. */
  function toNormal(values, from) {
    for (let i = from; i < from + 8; i++) {
      const radius = Math.sqrt(-2 * Math.log(1 - values[i]));
      const angle = 2 * Math.PI * values[i + 8];
      values[i] = radius * Math.cos(angle);
      values[i + 8] = radius * Math.sin(angle);
    }
  }

  /**
   * What `latents.sample_z(n, dim, prior=prior, rng=torch.Generator().manual_seed(seed))` draws: n Float32Arrays.
   * At least 16 numbers in all; torch draws fewer normal ones in another way.
   */
  function sampleZ(seed, n, dim, prior = "normal") {
    const bits = twister(seed);
    const uniform = () => (bits() & 0xffffff) / 0x1000000;
    const values = Float32Array.from({ length: n * dim }, uniform);
    if (prior === "uniform") values.forEach((value, index) => (values[index] = 2 * value - 1));
    else {
      if (values.length < 16) throw new Error(`at least 16 numbers, got ${n} times ${dim}`);
      for (let i = 0; i + 16 <= values.length; i += 16) toNormal(values, i);
      if (values.length % 16) {
        for (let i = values.length - 16; i < values.length; i++) values[i] = uniform();
        toNormal(values, values.length - 16);
      }
    }
    return Array.from({ length: n }, (_, index) => values.slice(index * dim, (index + 1) * dim));
  }

  const norm = (z) => Math.hypot(...z);
  const scaled = (z, factor) => z.map((value) => factor * value);
  /** The sum of latents, each times its factor: combine([1, a], [-1, b]). */
  const combine = (...terms) => terms[0][1].map((_, i) => terms.reduce((sum, [factor, z]) => sum + factor * z[i], 0));
  const lerp = (a, b, t) => combine([1 - t, a], [t, b]);

  /** Along the arc from a to b, as `latents.slerp`; straight where the angle is all but 0 or 180 degrees. */
  function slerp(a, b, t) {
    const [u, v] = [scaled(a, 1 / norm(a)), scaled(b, 1 / norm(b))];
    const angle = 2 * Math.atan2(norm(combine([1, u], [-1, v])), norm(combine([1, u], [1, v])));
    if (!(angle > 1e-3 && Math.PI - angle > 1e-3)) return lerp(a, b, t);
    return combine([Math.sin((1 - t) * angle) / Math.sin(angle), a], [Math.sin(t * angle) / Math.sin(angle), b]);
  }

  return { packed: {}, load, decode, paint, toPixels, sampleZ, norm, scaled, combine, lerp, slerp };
})();
