// Charts and controls that the figures to play with share. Load it first: `await play.load("play/plot.js")`.
//
//     const chart = play.plot.chart({ height: 220 });
//     box.append(chart.element);
//     chart.draw({ x: { min: 0, max: 1, title: "x" }, y: { min: 0, max: 2 }, label: "what is seen",
//                  marks: [{ line: [[0, 0], [1, 2]], color: "real" }] });
//
// A chart is an SVG as wide as its place, drawn again when that changes. Marks are drawn in order:
//
//     { line: points, color, width, dash }    { area: points, color }    { dots: points, color, r, hollow, names }
//     { rule: value, across: "x" or "y" }     { cells: [[x0, x1, y0, y1, share], ...], color }    { text, at, anchor }
//
// Colours are the names below, which change with the theme. An axis with `log: true` is logarithmic.
play.plot = (() => {
  "use strict";

  const STYLE = `
    .play-box { --plot-real: #0072b2; --plot-fake: #c44e00; --plot-grey: #666; --plot-third: #00795a;
      --plot-fourth: #a03d80; --plot-fifth: #8a6d00; --plot-text: var(--pst-color-text-base); text-align: left; }
    html[data-theme="dark"] .play-box { --plot-real: #6db6ea; --plot-fake: #f5935a; --plot-grey: #aaa;
      --plot-third: #4cc9a0; --plot-fourth: #e59ac9; --plot-fifth: #e3c44f; }
    .plot { font-size: 12px; min-width: 0; }
    .plot svg { overflow: visible; }
    .plot text { fill: var(--pst-color-text-base); }
    .plot .axis { stroke: var(--pst-color-text-muted); fill: none; }
    .plot .grid { stroke: var(--pst-color-border); opacity: .6; }
    .plot.drags svg { cursor: crosshair; }
    .plot-row { display: grid; gap: .5rem 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 240px), 1fr)); }
    .plot-title { font-size: .85rem; font-weight: 600; margin: 0 0 .1rem; }
    .plot-legend { display: flex; flex-wrap: wrap; font-size: .85rem; gap: .1rem 1rem; list-style: none; margin: 0 0 .25rem;
      padding: 0; }
    .plot-legend svg { display: inline; margin-right: .35rem; vertical-align: middle; }
    .plot-control { align-items: center; display: flex; flex-wrap: wrap; font-size: .9rem; gap: .1rem .6rem; }
    .plot-control input[type="range"] { flex: 1 1 6rem; height: 2rem; max-width: 16rem; min-width: 5rem; }
    .plot-control output { min-width: 3.2em; }
    .plot-control[hidden] { display: none; }
    .plot-choice { align-items: center; border: 0; display: flex; flex-wrap: wrap; font-size: .9rem; gap: .1rem .9rem;
      margin: 0; min-width: 0; padding: 0; }
    .plot-choice legend { float: left; font-size: inherit; margin: 0; width: auto; }
    .plot-choice label { align-items: center; display: inline-flex; gap: .35rem; min-height: 2rem; }
    .plot-choice input { height: 1.1rem; width: 1.1rem; }
    .play-controls button { font-size: .9rem; }
    .plot-says { display: block; font-size: .9rem; margin: .5rem 0 0; }`;
  const style = document.createElement("style");
  style.textContent = STYLE;
  document.head.append(style);

  const SVG = "http://www.w3.org/2000/svg";
  let made = 0;

  const shade = (name = "text") => `var(--plot-${name})`;
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  function filled(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  /** An element of a kind with some attributes and children. */
  const make = (kind, attributes = {}, ...children) => filled(document.createElement(kind), attributes, children);

  /** The same for SVG, appended to a parent. */
  function draw(kind, attributes, parent, ...children) {
    const element = filled(document.createElementNS(SVG, kind), attributes, children);
    parent.append(element);
    return element;
  }

  /** Round values between two limits, about `count` of them; powers of ten on a logarithmic axis. */
  function ticks(min, max, count = 5, log = false) {
    if (log) {
      const first = Math.ceil(Math.log10(min) - 1e-9);
      const last = Math.floor(Math.log10(max) + 1e-9);
      const every = Math.max(1, Math.ceil((last - first) / count));
      return Array.from({ length: Math.max(0, Math.floor((last - first) / every) + 1) }, (_, k) => 10 ** (first + k * every));
    }
    const rough = (max - min) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
    const found = [];
    for (let k = Math.ceil(min / step - 1e-9); k * step <= max + step * 1e-9; k++) found.push(Number((k * step).toPrecision(12)));
    return found;
  }

  /** A number as text: plain from 0.001 to 99,999, else with a power of ten. */
  function number(value, digits = 3) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e-3 && size < 1e5) return Number(value.toPrecision(digits)).toLocaleString("en").replace("-", "−");
    const [mantissa, power] = value.toExponential(digits - 1).split("e");
    const raised = String(Number(power)).replace(/./g, (one) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[one] || "⁻");
    const factor = Number(mantissa) === 1 ? "" : `${Number(mantissa)} × `.replace("-", "−");
    return `${factor}10${raised}`;
  }

  /** A number with so many decimals. */
  const fixed = (value, digits = 2) => value.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "−");

  /** The function from a value on an axis to a pixel between two, and back. */
  function scale({ min, max, log }, from, to) {
    const [low, high] = log ? [Math.log10(min), Math.log10(max)] : [min, max];
    const at = (value) => from + (((log ? Math.log10(Math.max(value, 1e-300)) : value) - low) / (high - low)) * (to - from);
    at.back = (pixel) => {
      const value = low + ((pixel - from) / (to - from)) * (high - low);
      return log ? 10 ** value : value;
    };
    return at;
  }

  /** A chart. `height` is in pixels; a `square` one is as high as it is wide, at most `height`. */
  function chart({ height = 220, square = false, title = "" } = {}) {
    const element = make("div", { class: "plot" });
    if (title) element.append(make("p", { class: "plot-title" }, title));
    const svg = draw("svg", { role: "img" }, element);
    const clip = `plot-clip-${made++}`;
    let shown = null;
    let places = null;

    function paint() {
      const wide = Math.floor(element.clientWidth);
      if (!shown || wide < 40) return;
      const high = square ? Math.min(wide, height) : height;
      const { x, y, marks } = shown;
      const edge = { left: y.title ? 58 : 46, right: wide - 12, top: 8, bottom: high - (x.title ? 36 : 20) };
      if (square) edge.right = Math.min(edge.right, edge.left + edge.bottom - edge.top);
      const toX = scale(x, edge.left, edge.right);
      const toY = scale(y, edge.bottom, edge.top);
      places = { toX, toY };
      svg.replaceChildren();
      const size = { width: wide, height: high, viewBox: `0 0 ${wide} ${high}` };
      filled(svg, { ...size, "aria-label": shown.label || title }, []);
      const frame = { x: edge.left, y: edge.top, width: edge.right - edge.left, height: edge.bottom - edge.top };
      draw("rect", frame, draw("clipPath", { id: clip }, svg));
      axes(x, y, toX, toY, edge);
      const inside = draw("g", { "clip-path": `url(#${clip})` }, svg);
      for (const mark of marks) paintMark(mark, toX, toY, edge, mark.text === undefined ? inside : svg);
    }

    function axes(x, y, toX, toY, edge) {
      const along = x.ticks || ticks(x.min, x.max, Math.max(2, Math.floor((edge.right - edge.left) / 45)), x.log);
      const up = y.ticks || ticks(y.min, y.max, Math.max(2, Math.floor((edge.bottom - edge.top) / 40)), y.log);
      for (const value of along) {
        const at = toX(value);
        draw("line", { class: "grid", x1: at, x2: at, y1: edge.top, y2: edge.bottom }, svg);
        draw("text", { x: at, y: edge.bottom + 15, "text-anchor": "middle" }, svg, (x.format || number)(value));
      }
      for (const value of up) {
        const at = toY(value);
        draw("line", { class: "grid", x1: edge.left, x2: edge.right, y1: at, y2: at }, svg);
        draw("text", { x: edge.left - 6, y: at + 4, "text-anchor": "end" }, svg, (y.format || number)(value));
      }
      draw("path", { class: "axis", d: `M${edge.left} ${edge.top}V${edge.bottom}H${edge.right}` }, svg);
      const middle = [(edge.left + edge.right) / 2, (edge.top + edge.bottom) / 2];
      draw("text", { x: middle[0], y: edge.bottom + 31, "text-anchor": "middle" }, svg, x.title || "");
      const turned = { "text-anchor": "middle", transform: `translate(11 ${middle[1]}) rotate(-90)` };
      draw("text", turned, svg, y.title || "");
    }

    function paintMark(mark, toX, toY, edge, parent) {
      const color = shade(mark.color);
      const path = (points) => points.map(([a, b], k) => `${k ? "L" : "M"}${toX(a).toFixed(1)} ${toY(b).toFixed(1)}`).join("");
      if (mark.line) {
        const look = `fill:none;stroke:${color};stroke-width:${mark.width || 2};stroke-dasharray:${mark.dash || "none"}`;
        draw("path", { d: path(mark.line), style: `${look};opacity:${mark.opacity || 1}` }, parent);
      } else if (mark.area) {
        const [first, last] = [mark.area[0][0], mark.area[mark.area.length - 1][0]];
        const d = `${path(mark.area)}L${toX(last)} ${edge.bottom}L${toX(first)} ${edge.bottom}Z`;
        draw("path", { d, style: `fill:${color};opacity:${mark.opacity || 0.3}` }, parent);
      } else if (mark.dots) {
        mark.dots.forEach(([a, b], k) => {
          const look = mark.hollow ? `fill:none;stroke:${color};stroke-width:2` : `fill:${color}`;
          const dot = { cx: toX(a), cy: toY(b), r: mark.r || 4, style: `${look};opacity:${mark.opacity || 1}` };
          const drawn = draw("circle", dot, parent);
          if (mark.names) draw("title", {}, drawn, mark.names[k]);
        });
      } else if (mark.cells) {
        for (const [x0, x1, y0, y1, share] of mark.cells) {
          const [a, b, c, d] = [toX(x0), toX(x1), toY(y1), toY(y0)];
          const place = { x: a, y: c, width: b - a, height: d - c, style: `fill:${color};opacity:${share}` };
          draw("rect", { ...place, "shape-rendering": "crispEdges" }, parent);
        }
      } else if (mark.rule !== undefined) {
        const up = mark.across === "x";
        const at = up ? toX(mark.rule) : toY(mark.rule);
        const ends = up ? `M${at} ${edge.top}V${edge.bottom}` : `M${edge.left} ${at}H${edge.right}`;
        draw("path", { d: ends, style: `stroke:${shade(mark.color || "grey")};stroke-dasharray:${mark.dash || "3 3"}` }, parent);
      } else if (mark.text !== undefined) {
        const [a, b] = mark.at;
        const place = { x: clamp(toX(a), edge.left, edge.right) + (mark.dx || 0), y: toY(b) + (mark.dy || 0) };
        draw("text", { ...place, "text-anchor": mark.anchor || "start" }, parent, mark.text);
      }
    }

    new ResizeObserver(paint).observe(element);
    return {
      element,
      svg,
      draw(spec) {
        shown = spec;
        paint();
      },
      /** Call `act(x, y)` with the values under the mouse while it is down, or under a tap: a finger that moves scrolls. */
      drag(act) {
        element.classList.add("drags");
        const tell = (event) => {
          const box = svg.getBoundingClientRect();
          const { x, y } = shown;
          const right = clamp(places.toX.back(event.clientX - box.left), x.min, x.max);
          act(right, clamp(places.toY.back(event.clientY - box.top), y.min, y.max));
        };
        svg.addEventListener("click", tell);
        svg.addEventListener("pointerdown", (event) => {
          if (event.pointerType === "touch") return;
          svg.setPointerCapture(event.pointerId);
          tell(event);
        });
        svg.addEventListener("pointermove", (event) => {
          if (svg.hasPointerCapture(event.pointerId)) tell(event);
        });
      },
    };
  }

  /** What the colours mean: `[["real", "real samples"], ["grey", "limit", "4 3"]]`. */
  function legend(entries) {
    const items = entries.map(([color, text, dash]) => {
      const item = make("li");
      const svg = draw("svg", { width: 22, height: 10, "aria-hidden": "true" }, item);
      draw("path", { d: "M0 5H22", style: `stroke:${shade(color)};stroke-width:3;stroke-dasharray:${dash || "none"}` }, svg);
      item.append(text);
      return item;
    });
    return make("ul", { class: "plot-legend" }, ...items);
  }

  /** A slider between its name and its value. `of(position)` is the value at a position, `show` its text. */
  function slider({ label, min, max, step, value, of = (position) => position, show = number }, act) {
    const input = make("input", { type: "range", min, max, step });
    const output = make("output", { "aria-live": "off" });
    const element = make("label", { class: "plot-control" }, make("span", {}, label), input, output);
    const say = () => {
      output.value = show(of(Number(input.value)));
      input.setAttribute("aria-valuetext", output.value);
    };
    input.value = value;
    say();
    input.addEventListener("input", () => {
      say();
      act();
    });
    return {
      element,
      get value() {
        return of(Number(input.value));
      },
      /** Move to a position, as the reader would, but without a word to `act`. */
      set position(position) {
        input.value = position;
        say();
      },
    };
  }

  /** Radio buttons: `choice("order", [["a", "one way"], ["b", "another"]], act)`. */
  function choice(label, options, act) {
    const name = `plot-choice-${made++}`;
    const element = make("fieldset", { class: "plot-choice" }, make("legend", {}, label));
    for (const [value, text] of options) {
      const input = make("input", { type: "radio", name, value });
      input.checked = value === options[0][0];
      input.addEventListener("change", act);
      element.append(make("label", {}, input, text));
    }
    return {
      element,
      get value() {
        return element.querySelector("input:checked").value;
      },
    };
  }

  function button(text, act) {
    const element = make("button", { type: "button" }, text);
    element.addEventListener("click", act);
    return element;
  }

  /** A line that screen readers speak once it has rested for a moment, and not at each step of a slider. */
  function says() {
    const element = make("output", { class: "plot-says" });
    let waiting = 0;
    return {
      element,
      set text(words) {
        element.setAttribute("aria-busy", "true");
        element.textContent = words;
        clearTimeout(waiting);
        waiting = setTimeout(() => element.removeAttribute("aria-busy"), 400);
      },
    };
  }

  const controls = (...items) => make("div", { class: "play-controls" }, ...items.map((item) => item.element || item));
  const row = (...items) => make("div", { class: "plot-row" }, ...items.map((item) => item.element || item));

  return { chart, legend, slider, choice, button, says, controls, row, make, number, fixed, ticks, scale };
})();
