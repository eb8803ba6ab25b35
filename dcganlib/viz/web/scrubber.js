// Curves and films of a training, tied together: one slider over its steps moves a line through the curves and
// shows what the generator drew at that step. A classic script without imports: it works from a file too.
//
//     scrubber.make(box, options, still);
//
// `still` is the picture that this takes the place of. Its images are <img data-real> (training images) and
// <img data-generated="NAME" data-frames="ADDRESS" data-columns="8"> (the last frame; all frames stand in the sheet at
// ADDRESS, row by row), each with data-run="0 2", the numbers of its runs, where there are several. `options` is
//
//     {runs: [{name, steps: [0, 50, ...], beside: false,
//              charts: [{title, steps, series: [{name, values}], level, range}]}]}
//
// with a step for each frame; data-counts="1 3" says that the sheet's second picture stands for three frames. Films of a run are shown one at a time, or side by side with `beside`.
window.scrubber = (() => {
  "use strict";

  const FRAMES_PER_SECOND = 8;
  const HEIGHT = 150; // pixels of a chart
  const MARGIN = { left: 44, right: 10, top: 8, bottom: 24 };
  const DASHES = ["", "6 3", "2 2", "8 2 2 2"];
  const STYLE = `
.scrubber { --scrubber-1: #1a6aa8; --scrubber-2: #a8500a; --scrubber-3: #2a7a3b; --scrubber-4: #8a3d9c;
  --scrubber-line: var(--pst-color-border, #c9c9c9); color: var(--pst-color-text-base, inherit);
  text-align: start; }
html[data-theme="dark"] .scrubber { --scrubber-1: #6cb6ff; --scrubber-2: #ffa657; --scrubber-3: #7ee787;
  --scrubber-4: #d2a8ff; }
.scrubber-pictures, .scrubber-charts { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 14rem), 1fr)); }
.scrubber-pictures { align-items: start; justify-items: center; }
.scrubber-pictures > div { max-width: 24rem; width: 100%; }
.scrubber-charts { margin-top: 1rem; }
@media (max-width: 40rem) {
  .scrubber { display: flex; flex-direction: column; }
  .scrubber-pictures { display: contents; }
  .scrubber-charts { order: 1; }
  .scrubber-real { margin-top: 1rem; order: 2; }
}
.scrubber-pictures canvas { display: block; height: auto; image-rendering: pixelated; width: 100%; }
.scrubber-title { font-size: 0.9rem; margin: 0 0 0.25rem; }
.scrubber-line { display: flex; flex-wrap: wrap; gap: 0.5rem 1rem; align-items: center; margin: 0.75rem 0; }
.scrubber-line > .scrubber-step { flex: 1 1 14rem; display: flex; gap: 0.5rem; align-items: center; }
.scrubber-line input[type="range"] { flex: 1; min-width: 6rem; height: 2rem; }
.scrubber-line input[type="checkbox"] { width: 1.5rem; height: 1.5rem; vertical-align: middle; }
.scrubber-line label { min-height: 2rem; display: flex; gap: 0.4rem; align-items: center; }
.scrubber-line button { min-width: 5rem; min-height: 2rem; }
.scrubber output { font-variant-numeric: tabular-nums; min-width: 7rem; }
.scrubber-legend { display: flex; flex-wrap: wrap; gap: 0 1rem; font-size: 0.85rem; list-style: none; margin: 0;
  padding: 0; font-variant-numeric: tabular-nums; }
.scrubber-legend svg { display: inline; vertical-align: middle; margin-right: 0.3rem; }
.scrubber-charts > div { min-width: 0; }
.scrubber-charts svg.scrubber-chart { cursor: ew-resize; display: block; touch-action: pan-y; width: 100%;
  height: ${HEIGHT}px; }
.scrubber-chart text { fill: currentColor; font-size: 12px; }
.scrubber-chart .axis { stroke: var(--scrubber-line); }
.scrubber-chart .level { stroke: currentColor; stroke-dasharray: 1 3; opacity: 0.7; }
.scrubber-chart .now { stroke: currentColor; stroke-width: 1.5; }
`;

  // Arithmetic

  /** Round numbers that divide an axis into about `count` parts: ticks(0, 11700, 4) is 0, 5000, 10000. */
  function ticks(low, high, count) {
    if (!(high > low)) return [low];
    const raw = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    const unit = [1, 2, 5, 10].find((one) => one * power >= raw * 0.999) * power;
    const found = [];
    for (let i = Math.ceil(low / unit - 1e-9); i * unit <= high + unit * 1e-9; i++) found.push(+(i * unit).toPrecision(12));
    return found;
  }

  /** Index of the last entry of a rising list that is at most `value`, or 0 if there is none. */
  function lastUpTo(list, value) {
    let low = 0;
    let high = list.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (list[middle] <= value) low = middle + 1;
      else high = middle;
    }
    return Math.max(0, low - 1);
  }

  /** Index of the entry of a rising list that is nearest to `value`; of two as near the earlier. */
  function nearest(list, value) {
    const before = lastUpTo(list, value);
    const after = Math.min(before + 1, list.length - 1);
    return list[after] - value < value - list[before] ? after : before;
  }

  /** What a curve has at a step: the value of its nearest point; null before its first half window. */
  function valueAt(steps, values, step) {
    const window = steps.length > 1 ? steps[1] - steps[0] : 1;
    if (!steps.length || step < steps[0] - window) return null;
    return values[nearest(steps, step)];
  }

  /** Smallest and largest number of all series, with a little room; [0, 1] if there is none. */
  function extent(series) {
    const numbers = series.flatMap((one) => one.values).filter((value) => Number.isFinite(value));
    if (!numbers.length) return [0, 1];
    const low = numbers.reduce((a, b) => Math.min(a, b));
    const high = numbers.reduce((a, b) => Math.max(a, b));
    const room = (high - low || Math.abs(high) || 1) * 0.05;
    return [low >= 0 && low - room < 0 ? 0 : low - room, high + room];
  }

  /** An SVG path through points; where a value is missing the line is broken. */
  function path(xs, ys) {
    let pen = "M";
    return xs
      .map((x, i) => {
        if (!Number.isFinite(ys[i])) {
          pen = "M";
          return "";
        }
        const part = `${pen}${x.toFixed(1)} ${ys[i].toFixed(1)}`;
        pen = "L";
        return part;
      })
      .join("");
  }

  /** Where a frame stands in a sheet. */
  function place(index, columns, width, height) {
    return [(index % columns) * width, Math.floor(index / columns) * height];
  }

  /** Place in the sheet of each frame: spread("1 3", 4) is [0, 1, 1, 1], as equal frames in a row share one. */
  function spread(counts, count) {
    if (!counts) return [...Array(count).keys()];
    return counts.split(" ").flatMap((times, at) => Array(Number(times)).fill(at));
  }

  /** A number as a reader wants it: 11,700 and 0.412. */
  function shown(value) {
    if (value === null || !Number.isFinite(value)) return "–";
    if (Number.isInteger(value) || Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
    return value.toPrecision(3);
  }

  // Elements

  function element(name, attributes = {}, ...children) {
    const svg = ["svg", "path", "line", "text", "g", "circle"].includes(name);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    made.append(...children);
    return made;
  }

  function loaded(address) {
    return new Promise((done, fail) => {
      const image = new Image();
      image.onload = () => done(image);
      image.onerror = () => fail(new Error(`${address.slice(0, 80)} cannot be loaded`));
      image.src = address;
    });
  }

  let numbered = 0;

  /** A picture that can show each frame of a film; the sheet of all frames is loaded by the first `show`. */
  function film(still, count) {
    const canvas = element("canvas", { role: "img", "aria-label": still.alt });
    const { frames, columns } = still.dataset;
    const places = spread(still.dataset.counts, count);
    let sheet = null;
    let wanted = count - 1;
    const last = loaded(still.getAttribute("src"));
    const draw = (image, x, y) => {
      const { naturalWidth: width, naturalHeight: height } = image === sheet ? still.size : image;
      if (canvas.width !== width) canvas.width = width;
      if (canvas.height !== height) canvas.height = height;
      canvas.getContext("2d").drawImage(image, x, y, width, height, 0, 0, width, height);
    };
    last.then((image) => {
      still.size = { naturalWidth: image.naturalWidth, naturalHeight: image.naturalHeight };
      draw(image, 0, 0);
    });
    let loading = null;
    return {
      canvas,
      async show(index, label) {
        wanted = index;
        canvas.setAttribute("aria-label", label);
        if (!frames) return;
        await last;
        loading ??= loaded(frames).then((image) => (sheet = image));
        await loading;
        const { naturalWidth: width, naturalHeight: height } = still.size;
        draw(sheet, ...place(places[wanted], Number(columns), width, height));
      },
    };
  }

  /** Curves in one pair of axes: {box, draw(width), move(step)}. */
  function chart(content, from, to, go) {
    const svg = element("svg", { class: "scrubber-chart", role: "img", "aria-label": content.title });
    const legend = element("ul", { class: "scrubber-legend" });
    const values = content.series.map((one, i) => {
      const value = element("span");
      const swatch = element("svg", { width: 24, height: 8, "aria-hidden": "true" }, line(i, "M0 4L24 4"));
      legend.append(element("li", {}, swatch, `${one.name} `, value));
      return value;
    });
    const box = element("div", {}, element("p", { class: "scrubber-title" }, content.title), svg, legend);
    const [low, high] = content.range || extent(content.series);
    let scale = null;
    let step = to;

    function line(i, d) {
      const style = `fill: none; stroke: var(--scrubber-${(i % 4) + 1}); stroke-width: 2`;
      return element("path", { d, style, "stroke-dasharray": DASHES[i % 4] });
    }

    function draw(width) {
      const right = Math.max(width, 120) - MARGIN.right;
      const bottom = HEIGHT - MARGIN.bottom;
      const x = (value) => MARGIN.left + ((value - from) / (to - from || 1)) * (right - MARGIN.left);
      const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - MARGIN.top);
      scale = { x, right };
      svg.setAttribute("viewBox", `0 0 ${Math.max(width, 120)} ${HEIGHT}`);
      const parts = ticks(low, high, 4).flatMap((value) => [
        element("line", { class: "axis", x1: MARGIN.left, x2: right, y1: y(value), y2: y(value) }),
        element("text", { x: MARGIN.left - 6, y: y(value) + 4, "text-anchor": "end" }, String(+value.toPrecision(4))),
      ]);
      ticks(from, to, width < 300 ? 2 : 4).forEach((value) =>
        parts.push(element("text", { x: x(value), y: HEIGHT - 6, "text-anchor": x(value) > right - 20 ? "end" : "middle" }, value.toLocaleString("en")))
      );
      if (content.level !== undefined && content.level !== null && content.level >= low && content.level <= high)
        parts.push(element("line", { class: "level", x1: MARGIN.left, x2: right, y1: y(content.level), y2: y(content.level) }));
      content.series.forEach((one, i) =>
        parts.push(line(i, path(content.steps.map(x), one.values.map((value) => (value === null ? NaN : y(value))))))
      );
      parts.push(element("line", { class: "now", y1: MARGIN.top, y2: bottom }));
      svg.replaceChildren(...parts);
      move(step);
    }

    function move(next) {
      step = next;
      const now = svg.querySelector(".now");
      if (now) ["x1", "x2"].forEach((name) => now.setAttribute(name, scale.x(step)));
      content.series.forEach((one, i) => (values[i].textContent = shown(valueAt(content.steps, one.values, step))));
    }

    function point(event) {
      const rect = svg.getBoundingClientRect();
      const share = (event.clientX - rect.left - MARGIN.left) / (scale.right - MARGIN.left);
      go(from + Math.min(1, Math.max(0, share)) * (to - from));
    }
    svg.addEventListener("pointerdown", (event) => {
      svg.setPointerCapture(event.pointerId);
      point(event);
    });
    svg.addEventListener("pointermove", (event) => event.buttons && point(event));
    return { box, draw, move, svg };
  }

  /** The values of a run's curves at a step, in words. */
  function words(run, step) {
    const names = run.charts.flatMap((one) => one.series.map((series) => series.name));
    const full = (one, name) => (names.indexOf(name) === names.lastIndexOf(name) ? name : `${one.title}, ${name}`);
    const parts = run.charts.flatMap((one) =>
      one.series.map((series) => [full(one, series.name), valueAt(one.steps, series.values, step)])
    );
    const known = parts.filter(([, value]) => value !== null && Number.isFinite(value));
    return known.map(([name, value]) => `${name} ${shown(value)}`).join(", ");
  }

  // The figure

  function make(box, options, still) {
    if (!document.getElementById("scrubber-style"))
      document.head.append(element("style", { id: "scrubber-style" }, STYLE));
    const id = `scrubber-${numbered++}`;
    box.classList.add("scrubber");
    if (!box.hasAttribute("aria-label")) box.setAttribute("aria-label", "a training, step by step");
    const images = [...still.querySelectorAll("img[data-generated], img[data-real]")];
    const runs = options.runs;
    const pictures = element("div", { class: "scrubber-pictures" });
    const charts = element("div", { class: "scrubber-charts" });
    const slider = element("input", { type: "range", id, min: 0, step: 1 });
    const output = element("output", { for: id });
    const button = element("button", { type: "button" }, "Play");
    const controls = element("div", { class: "scrubber-line play-controls" });
    const choice = element("select", {}, ...runs.map((run, i) => element("option", { value: i }, run.name || `run ${i + 1}`)));
    const other = element("input", { type: "checkbox" });
    const otherName = element("span");
    const otherLabel = element("label", {}, other, otherName);
    controls.append(element("label", { class: "scrubber-step" }, element("span", {}, "step"), slider), output, button, otherLabel);
    if (runs.length > 1) controls.prepend(element("label", {}, element("span", {}, "run"), choice));
    box.append(controls, pictures, charts);

    let run, films, drawn;
    let playing = null; // stands for the playing that goes on

    function select(index) {
      run = runs[index];
      const own = images.filter((image) => (image.dataset.run || "0").split(" ").includes(String(index)));
      const count = run.steps.length;
      const titled = (name, canvas, kind) =>
        element("div", { class: `scrubber-${kind}` }, element("p", { class: "scrubber-title" }, name), canvas);
      const real = own
        .filter((image) => "real" in image.dataset)
        .map((image) => titled(image.dataset.real, film(image, 1).canvas, "real"));
      films = own.filter((image) => "generated" in image.dataset).map((image) => ({ name: image.dataset.generated, ...film(image, count) }));
      films.forEach((one) => (one.box = titled(one.name, one.canvas, "generated")));
      pictures.replaceChildren(...films.map((one) => one.box), ...real);
      otherLabel.hidden = run.beside || films.length < 2;
      otherLabel.style.display = otherLabel.hidden ? "none" : "";
      if (films.length > 1) {
        otherName.textContent = films[1].name;
        other.checked = true;
      }
      choose();
      const [from, to] = [Math.min(0, run.steps[0]), run.steps[count - 1]];
      const go = (step) => {
        pause();
        slider.value = nearest(run.steps, step);
        move();
      };
      drawn = run.charts.map((content) => chart(content, from, to, go));
      charts.replaceChildren(...drawn.map((one) => one.box));
      slider.max = count - 1;
      slider.value = count - 1;
      resize();
      tell();
    }

    /** One film at a time: the second where the box is ticked. */
    function choose() {
      if (!run.beside && films.length > 1) films.forEach((one, i) => (one.box.hidden = i !== Number(other.checked)));
    }

    function tell() {
      const step = run.steps[Number(slider.value)];
      output.value = `${step.toLocaleString("en")} of ${run.steps[run.steps.length - 1].toLocaleString("en")}`;
      const values = words(run, step);
      slider.setAttribute("aria-valuetext", `step ${output.value}${values ? `: ${values}` : ""}`);
      drawn.forEach((one) => one.move(step));
      return step;
    }

    function move() {
      const step = tell();
      const index = Number(slider.value);
      const seen = films.filter((one) => !one.box.hidden);
      return Promise.all(seen.map((one) => one.show(index, `${one.name} at step ${step.toLocaleString("en")}`)));
    }

    function pause() {
      playing = null;
      button.textContent = "Play";
    }

    async function play() {
      const mine = (playing = {});
      button.textContent = "Pause";
      if (slider.value === slider.max) slider.value = 0;
      await move(); // which loads the frames
      while (playing === mine && slider.value !== slider.max) {
        await new Promise((done) => setTimeout(done, 1000 / FRAMES_PER_SECOND));
        if (playing !== mine) return;
        slider.value = Number(slider.value) + 1;
        await move();
      }
      if (playing === mine) pause();
    }

    function resize() {
      drawn.forEach((one) => one.draw(one.svg.clientWidth || 300));
    }

    slider.addEventListener("input", () => {
      pause();
      move();
    });
    button.addEventListener("click", () => (playing ? pause() : play()));
    other.addEventListener("change", () => {
      choose();
      move();
    });
    choice.addEventListener("change", () => {
      pause();
      select(Number(choice.value));
    });
    new ResizeObserver(resize).observe(box);
    select(0);
  }

  return { make, ticks, lastUpTo, nearest, valueAt, extent, path, place, spread, shown };
})();
