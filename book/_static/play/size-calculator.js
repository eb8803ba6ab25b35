// The size calculator: both networks of a DCGAN as chains of layers that can be changed, with what follows from them.
play.calculator = (() => {
  "use strict";

  const KINDS = ["generator", "discriminator"];
  const LIMIT = 1024; // pixels a side, and of a kernel: what is larger takes too long to count
  const ORANGE = [230, 159, 0];

  const STYLE = `
.play-size-calculator { container-type: inline-size; text-align: left; }
.play-size-calculator label > span { display: block; font-size: 0.8rem; line-height: 1.3; }
.play-size-calculator input[type="number"] { padding-inline: 0.4rem 0; width: 3.4rem; }
.play-size-calculator .sizes-wide input[type="number"] { width: 4.4rem; }
.play-size-calculator.play-box input[aria-invalid="true"] { border: 2px solid #d55e00; }
.play-size-calculator .play-controls { align-items: end; gap: 0.4rem 0.5rem; }
.play-size-calculator [role="radiogroup"] label { align-items: center; display: inline-flex; gap: 0.4rem; min-height: 2rem; padding-right: 1rem; }
.play-size-calculator :is(input[type="radio"], input[type="checkbox"]) { flex: none; height: 1.5rem; width: 1.5rem; }
.sizes-strip { align-items: end; display: flex; flex-wrap: wrap; gap: 0.3rem 0.4rem; justify-content: center; margin: 0.7rem 0; }
.sizes-strip > div { font-size: 0.8rem; line-height: 1.2; min-width: 1.5rem; text-align: center; }
.sizes-strip i { border: 1px solid var(--pst-color-text-base); box-sizing: border-box; display: block; margin: 0 auto; }
.play-size-calculator .sizes-layers { list-style: none; margin: 0.5rem 0; padding: 0; }
.play-size-calculator .sizes-layers > li { border-top: 1px solid var(--pst-color-border); display: grid; gap: 0.3rem 0.8rem; margin: 0; padding: 0.5rem 0; }
.sizes-layers .play-controls { margin: 0; }
.sizes-name { align-items: center; display: flex; flex-wrap: wrap; font-weight: 600; gap: 0 1rem; white-space: nowrap; }
.play-size-calculator .sizes-name button { margin-left: auto; padding: 0; width: 2rem; }
.sizes-facts { display: flex; flex-wrap: wrap; font-variant-numeric: tabular-nums; gap: 0.1rem 0.8rem; line-height: 1.3; }
.sizes-facts span { display: block; }
.sizes-facts span, .sizes-paths { font-size: 0.8rem; line-height: 1.3; }
.sizes-paths svg { height: 3rem; width: 100%; }
.sizes-image { align-items: start; display: flex; flex-wrap: wrap; gap: 0.5rem 1rem; margin: 0.5rem 0; }
.sizes-image canvas { image-rendering: pixelated; width: 10rem; }
.sizes-image p { flex: 1 1 12rem; margin: 0; }
.play-size-calculator [hidden] { display: none; }
.sizes-error { border-left: 4px solid #d55e00; padding-left: 0.6rem; }
.play-size-calculator summary { min-height: 2rem; padding: 0.3rem 0; }
.play-size-calculator textarea { display: block; font-family: var(--pst-font-family-monospace, monospace); font-size: 0.74rem; height: 24rem; margin: 0.5rem 0; width: 100%; }
.play-size-calculator .sizes-found { list-style: none; margin: 0.3rem 0; max-height: 16rem; overflow: auto; padding: 0; }
.sizes-found li { align-items: center; border-top: 1px solid var(--pst-color-border); display: flex; gap: 1rem; margin: 0; padding: 0.3rem 0; }
.play-size-calculator .sizes-check { align-items: center; display: inline-flex; gap: 0.4rem; min-height: 2rem; }
@container (min-width: 36rem) {
  .play-size-calculator .sizes-layers > li { grid-template-columns: 5.2rem 1fr 8rem; }
  .sizes-name { align-content: start; flex-direction: column; align-items: start; grid-row: span 2; }
  .play-size-calculator .sizes-name button { margin: 0.2rem 0 0; }
  .sizes-paths { grid-column: 3; grid-row: 1 / span 2; }
  .sizes-paths svg { height: 4.5rem; }
}`;

  // --- What does not draw ----------------------------------------------------------------------------------

  /** A chain of the zoo: {image_size, channels, latent_dim, base_channels, networks}. */
  function preset(name) {
    const { defaults, chains } = play.architectures;
    const { image_size, channels, latent_dim, base_channels, ...both } = chains[name];
    const layers = (kind) => both[kind].map((layer) => ({ ...defaults, ...layer }));
    return networksOf({ image_size, channels, latent_dim, base_channels }, layers("generator"), layers("discriminator"));
  }

  function networksOf(numbers, generator, discriminator) {
    const networks = {
      generator: { channels: numbers.latent_dim, size: 1, layers: generator, transposed: true },
      discriminator: { channels: numbers.channels, size: numbers.image_size, layers: discriminator, transposed: false },
    };
    return { ...numbers, networks };
  }

  /** Where a network must end. */
  function goal(state, kind) {
    return kind === "generator" ? { channels: state.channels, size: state.image_size } : { channels: 1, size: 1 };
  }

  /** What follows from a network: {rows, sizes, error, note}; rows is empty where there is an error. */
  function follow(state, kind) {
    const network = state.networks[kind];
    let sizes = [network.size];
    try {
      sizes = play.sizes.featureSizes(network.size, network.layers, network.transposed);
      const largest = Math.max(...sizes, ...network.layers.map((layer) => layer.kernel));
      if (largest > LIMIT) throw new RangeError(`this calculator goes up to ${LIMIT} pixels, and here is ${largest}`);
      const rows = play.sizes.describe(network);
      return { rows, sizes, error: "", note: play.sizes.wrongEnd(sizes, network.layers, goal(state, kind)) };
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      return { rows: [], sizes: error.sizes || sizes, error: error.message, note: "" };
    }
  }

  /** Hidden layers as many times as wide. */
  function widen(layers, factor) {
    return layers.map((layer, index) =>
      index === layers.length - 1 ? layer : { ...layer, channels: Math.max(1, Math.round(layer.channels * factor)) }
    );
  }

  /** A chain with the sizes of `found`; widths and what follows the convolutions stay if the number of layers does. */
  function withSizes(state, kind, found) {
    const old = state.networks[kind].layers;
    const last = found.length - 1;
    const hidden = (index) => ({
      channels: state.base_channels * 2 ** (kind === "generator" ? last - 1 - index : index),
      norm: kind === "discriminator" && index === 0 ? null : "batch",
      activation: kind === "generator" ? "relu" : "leaky_relu",
    });
    return found.map((layer, index) => ({
      ...(old.length === found.length ? old[index] : index === last ? old[old.length - 1] : hidden(index)),
      ...layer,
    }));
  }

  /** Both networks as one piece of code. */
  function code(state) {
    const [generator, discriminator] = KINDS.map((kind) => play.sizes.torchCode(state.networks[kind], kind));
    return `${generator}\n${discriminator.replace(/^from torch import nn\n\n/, "")}`;
  }

  const whole = (number) => number.toLocaleString("en");
  const short = (number) =>
    number < 1e6 ? whole(number) : number < 1e9 ? `${(number / 1e6).toFixed(1)} million` : `${(number / 1e9).toFixed(2)} billion`;
  const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
  const range = ([least, most]) => (least === most ? whole(least) : `${whole(least)}–${whole(most)}`);

  /** One sentence on the paths between the image and the other end. */
  function verdict({ rows }, kind) {
    const row = rows[kind === "generator" ? rows.length - 1 : 0].paths;
    const all = row.length ** 2;
    const none = all - row.filter((count) => count > 0).length ** 2;
    if (none) {
      const share = `${whole(none)} of the image's ${whole(all)} pixels (${((100 * none) / all).toFixed(1)}%)`;
      return kind === "generator" ? `No path leads to ${share}.` : `The discriminator never sees ${share}.`;
    }
    const grain = play.sizes.grain(row) ** 2; // in both directions
    const seen = kind === "discriminator" ? "The discriminator sees all pixels of the image. " : "";
    return grain === 1
      ? `${seen}There is no grid: in the middle, each pixel has as many paths as its neighbours have on average.`
      : `${seen}In the middle, a pixel differs from the average of its neighbours by a factor of up to ${grain.toFixed(2)} in its paths.`;
  }

  // --- Pieces of the page --------------------------------------------------------------------------------

  /** Paths as bars, one a pixel; orange where there are none. */
  function bars(row) {
    const { drawn, element } = play.elements;
    const [least, most] = [Math.min(...row), Math.max(...row)];
    const none = row.filter((count) => !count).length;
    const svg = drawn("svg", { viewBox: `0 0 ${row.length} 1`, preserveAspectRatio: "none", role: "img" });
    const said = `${row.length} bars, from ${whole(least)} to ${whole(most)} paths`;
    svg.setAttribute("aria-label", none ? `${said}; ${none} pixels have none` : said);
    row.forEach((count, x) => {
      const height = count ? count / most : 1;
      const fill = count ? "var(--pst-color-primary)" : `rgb(${ORANGE})`;
      svg.append(drawn("rect", { x, y: 1 - height, width: 1, height, fill, "shape-rendering": "crispEdges" }));
    });
    return element("div", { className: "sizes-paths" }, "Paths of each pixel", svg);
  }

  /** Paths of each pixel of the image, as a share of the most; orange where there are none. */
  function paint(canvas, row) {
    const [dark, light] = [[0, 34, 78], [254, 232, 56]]; // the ends of cividis
    const most = Math.max(...row) || 1;
    canvas.width = canvas.height = row.length;
    const image = new ImageData(row.length, row.length);
    row.forEach((up, y) =>
      row.forEach((across, x) => {
        const share = (up / most) * (across / most);
        const colour = share ? dark.map((low, index) => low + share * (light[index] - low)) : ORANGE;
        image.data.set([...colour, 255], 4 * (y * row.length + x));
      })
    );
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  /** Text to the clipboard; where the browser refuses, it is selected so that the reader can copy it. */
  async function copy(area, button) {
    area.select();
    try {
      await navigator.clipboard.writeText(area.value);
      button.textContent = "Copied";
    } catch {
      button.textContent = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  }

  // --- The figure ----------------------------------------------------------------------------------------

  let figures = 0; // so many are on the page

  async function make(box, options = {}) {
    figures += 1;
    await Promise.all(["sizes", "architectures", "elements"].map((name) => play.load(`play/${name}.js`)));
    const { element, field } = play.elements;
    box.append(element("style", { textContent: STYLE }));
    box.setAttribute("aria-label", "Size calculator");
    let state = preset(options.preset || "celeba-post");
    let shown = options.shown || "discriminator";

    const head = element("div", { className: "play-controls" });
    const strip = element("div", { className: "sizes-strip", role: "img" });
    const list = element("ol", { className: "sizes-layers" });
    const totals = element("output", { "aria-live": "polite" });
    const problem = element("p", { className: "sizes-error", "aria-live": "polite" });
    const canvas = element("canvas", { role: "img" });
    const said = element("p");
    const image = element("div", { className: "sizes-image" }, canvas, said);
    const program = element("textarea", { readOnly: true, "aria-label": "PyTorch code of both networks" });

    const choice = element(
      "select",
      {
        onchange: () => {
          state = preset(choice.value);
          rebuild();
        },
      },
      ...Object.entries(play.architectures.chains).map(([name, { summary }]) =>
        element("option", { value: name, title: summary }, name)
      )
    );
    choice.value = options.preset || "celeba-post";

    const kinds = element("div", { className: "play-controls", role: "radiogroup", "aria-label": "Network to change" });
    kinds.append(
      ...KINDS.map((kind) => {
        const radio = element("input", {
          type: "radio",
          name: `network-${figures}`,
          value: kind,
          checked: kind === shown,
          onchange: () => {
            shown = kind;
            rebuild();
          },
        });
        return element("label", {}, radio, kind[0].toUpperCase() + kind.slice(1));
      })
    );

    const add = element("button", { type: "button", onclick: addLayer }, "Add a layer");
    const finder = search();
    const copyButton = element("button", { type: "button", "aria-live": "polite" }, "Copy");
    copyButton.addEventListener("click", () => copy(program, copyButton));
    box.append(
      head,
      strip,
      kinds,
      problem,
      list,
      element("div", { className: "play-controls" }, add, totals),
      image,
      finder.box,
      element("details", {}, element("summary", {}, "Both networks as PyTorch code"), copyButton, program)
    );

    /** The numbers of the whole, and the fields of each layer of the network shown. */
    function rebuild() {
      const number = (name, text) =>
        field(text, state[name], 1, (value) => {
          const before = state[name];
          state[name] = value;
          if (name === "base_channels" && before > 0 && value > 0) {
            KINDS.forEach((kind) => {
              state.networks[kind].layers = widen(state.networks[kind].layers, value / before);
            });
            fill();
          }
          if (name === "base_channels" && value === "") state[name] = before;
          if (name === "channels") {
            const last = state.networks.generator.layers;
            last[last.length - 1] = { ...last[last.length - 1], channels: value };
            if (shown === "generator") fill();
          }
          state = networksOf(state, state.networks.generator.layers, state.networks.discriminator.layers);
          update();
        });
      head.replaceChildren(
        element("label", {}, element("span", {}, "Networks of"), choice),
        number("image_size", "Image size"),
        number("channels", "Channels"),
        number("latent_dim", "Latent size"),
        number("base_channels", "Base width"),
        element("button", { type: "button", onclick: standard }, "Standard chain for this size")
      );
      fill();
      finder.reset();
      update();
    }

    function fill() {
      const letter = shown[0].toUpperCase();
      const { layers, transposed } = state.networks[shown];
      list.replaceChildren(
        ...layers.map((layer, index) => {
          const name = `${letter}${index + 1}`;
          const entry = (key, text, minimum) => {
            const made = field(text, layer[key] ?? 0, minimum, (value) => {
              layers[index] = { ...layers[index], [key]: value };
              update();
            });
            made.querySelector("input").setAttribute("aria-label", `${text} of ${name}`);
            return made;
          };
          const remove = element("button", { type: "button", onclick: () => removeLayer(index) }, "×");
          remove.setAttribute("aria-label", `Remove ${name}`);
          remove.disabled = layers.length === 1;
          const fields = [
            entry("kernel", "Kernel", 1),
            entry("stride", "Stride", 1),
            entry("padding", "Padding", 0),
            ...(transposed ? [entry("output_padding", "Out pad.", 0)] : []),
            entry("channels", "Channels", 1),
          ];
          fields[fields.length - 1].className = "sizes-wide";
          return element(
            "li",
            {},
            element("div", { className: "sizes-name" }, name, element("div", { className: "sizes-size" }), remove),
            element("div", { className: "play-controls" }, ...fields),
            element("div", { className: "sizes-facts" })
          );
        })
      );
    }

    /** All that follows from the fields. */
    function update() {
      const found = Object.fromEntries(KINDS.map((kind) => [kind, follow(state, kind)]));
      showStrip(found);
      const { rows, sizes, error, note } = found[shown];
      [...list.children].forEach((item, index) => {
        const broken = Boolean(error) && index === sizes.length - 1;
        item.querySelectorAll("input").forEach((input) => input.setAttribute("aria-invalid", broken));
        const [from, to] = [sizes[index], sizes[index + 1]];
        item.querySelector(".sizes-size").textContent = to === undefined ? "" : `${from} → ${to}`;
        item.querySelector(".sizes-facts").replaceChildren(...(rows.length ? facts(rows[index]) : []));
        item.querySelectorAll(".sizes-paths").forEach((old) => old.remove());
        if (rows.length) item.append(bars(rows[index].paths));
      });
      problem.textContent = error || note;
      problem.hidden = !problem.textContent;
      image.hidden = !rows.length;
      totals.textContent = "";
      if (rows.length) {
        const name = shown[0].toUpperCase() + shown.slice(1);
        const parameters = whole(sum(rows.map((row) => row.parameters)));
        const work = short(sum(rows.map((row) => row.multiplyAdds)));
        totals.textContent = `${name}: ${sizes.join(" → ")}; ${parameters} parameters, ${work} multiply-adds an image.`;
        paint(canvas, rows[shown === "generator" ? rows.length - 1 : 0].paths);
        said.textContent = verdict(found[shown], shown);
        canvas.setAttribute("aria-label", `Paths of each pixel of the image. ${said.textContent}`);
      }
      const wrong = KINDS.map((kind) => found[kind].error).find(Boolean);
      program.value = wrong ? `# ${wrong}` : code(state);
      copyButton.disabled = Boolean(wrong);
    }

    function facts(row) {
      const [least, most] = row.coverage;
      const transposed = shown === "generator";
      return Object.entries({
        [transposed ? "Empty" : "Unread"]: `${whole(row.unread)} px`,
        Coverage: least === most ? range([least, most]) : `${range([least, most])}, uneven`,
        [transposed ? "Reaches" : "Sees"]: `${whole(row.field)} px`,
        Parameters: whole(row.parameters),
        "Multiply-adds": short(row.multiplyAdds),
      }).map(([name, value]) => element("div", {}, element("span", {}, `${name} `), value));
    }

    /** All maps to scale, the image between the two networks. */
    function showStrip(found) {
      const size = state.image_size > 0 ? state.image_size : 1;
      const maps = [
        ...found.generator.sizes.slice(0, found.generator.error ? undefined : -1).map((side) => [side, "#0072b2"]),
        [size, "white"],
        ...found.discriminator.sizes.slice(1).map((side) => [side, "#e69f00"]),
      ];
      const largest = Math.max(...maps.map(([side]) => side));
      strip.replaceChildren(
        ...maps.map(([side, colour]) => {
          const square = element("i");
          const pixels = `${Math.max(3, (72 * side) / largest)}px`;
          Object.assign(square.style, { background: colour, height: pixels, width: pixels });
          return element("div", {}, square, String(side));
        })
      );
      const [up, down] = KINDS.map((kind) => found[kind].sizes.join(", "));
      strip.setAttribute("aria-label", `Sides in pixels. Generator: ${up}. Discriminator: ${down}.`);
    }

    function standard() {
      try {
        const both = play.sizes.standardLayers(state.image_size, state.channels, state.base_channels);
        const layers = KINDS.map((kind) => both[kind].map((layer) => ({ ...layer, bias: false })));
        state = networksOf(state, ...layers);
        fill();
        finder.reset();
        update();
      } catch (error) {
        problem.textContent = error.message;
        problem.hidden = false;
      }
    }

    function addLayer() {
      const { layers, transposed } = state.networks[shown];
      const last = layers.length - 1;
      const channels = last ? layers[last - 1].channels : state.base_channels;
      const activation = transposed ? "relu" : "leaky_relu";
      layers.splice(last, 0, { kernel: 4, stride: 2, padding: 1, output_padding: 0, channels, norm: "batch", activation });
      fill();
      update();
      list.children[last].querySelector("input").focus();
    }

    function removeLayer(index) {
      const { layers } = state.networks[shown];
      layers.splice(index, 1);
      fill();
      update();
      list.children[Math.min(index, layers.length - 1)].querySelector("button").focus();
    }

    /** The search for layers that lead from one size to another. */
    function search() {
      let wanted = {};
      const fields = element("div", { className: "play-controls" });
      const result = element("output", { "aria-live": "polite" });
      const chains = element("ol", { className: "sizes-found", tabIndex: 0, "aria-label": "Chains found" });
      const details = element("details", { ontoggle: run }, element("summary", {}, "Which layers lead from here to there?"));
      details.append(fields, result, chains);

      function reset() {
        const network = state.networks[shown];
        const end = goal(state, shown).size;
        wanted = { from: network.size, to: end, count: network.layers.length, kernel: 5, stride: 2, padding: 2 };
        wanted = { ...wanted, transposed: network.transposed, even: true, output_padding: false };
        const number = (name, text, minimum) =>
          field(text, wanted[name], minimum, (value) => {
            wanted[name] = value;
            run();
          });
        const tick = (name, text) => {
          const input = element("input", { type: "checkbox", checked: wanted[name] });
          input.addEventListener("change", () => {
            wanted[name] = input.checked;
            run();
          });
          return element("label", { className: "sizes-check" }, input, text);
        };
        fields.replaceChildren(
          number("from", "From", 1),
          number("to", "To", 1),
          number("count", "Layers", 1),
          number("kernel", "Kernel up to", 1),
          number("stride", "Stride up to", 1),
          number("padding", "Padding up to", 0),
          tick("even", "Kernel a multiple of the stride"),
          ...(network.transposed ? [tick("output_padding", "Output padding")] : [])
        );
        run();
      }

      function run() {
        if (!details.open) return;
        chains.replaceChildren();
        try {
          const limits = { from: 512, to: 512, count: 8, kernel: 16, stride: 4, padding: 8 };
          const over = Object.keys(limits).find((name) => wanted[name] > limits[name]);
          if (over) throw new RangeError(`${over} must be at most ${limits[over]} here, got ${wanted[over]}`);
          const { total, chains: found } = play.sizes.search(wanted, 20);
          const more = total > found.length ? `; the first ${found.length} are listed` : "";
          const legend = `Each layer is written as kernel/stride/padding${wanted.output_padding ? "+output padding" : ""}.`;
          const count = Number.isSafeInteger(total) ? whole(total) : `About ${total.toExponential(1)}`;
          result.textContent = total ? `${count} ${total === 1 ? "chain" : "chains"}${more}. ${legend}` : "There is no such chain.";
          chains.hidden = !total;
          chains.append(...found.map((chain) => element("li", {}, ...line(chain))));
        } catch (error) {
          if (!(error instanceof RangeError)) throw error;
          result.textContent = error.message;
        }
      }

      function line(chain) {
        const sizes = play.sizes.featureSizes(wanted.from, chain, wanted.transposed);
        const layers = chain.map(({ kernel, stride, padding, output_padding: a }) => `${kernel}/${stride}/${padding}${a ? `+${a}` : ""}`);
        const text = `${sizes.join(" → ")}: ${layers.join(", ")}`;
        const fits = wanted.from === state.networks[shown].size && wanted.to === goal(state, shown).size;
        if (!fits) return [text];
        const use = element("button", { type: "button" }, "Use");
        use.setAttribute("aria-label", `Use the chain ${text}`);
        use.addEventListener("click", () => {
          state.networks[shown].layers = withSizes(state, shown, chain);
          fill();
          update();
        });
        return [use, text];
      }

      return { box: details, reset };
    }

    rebuild();
  }

  return { code, follow, make, preset, withSizes };
})();
play.register("size-calculator", play.calculator.make);
