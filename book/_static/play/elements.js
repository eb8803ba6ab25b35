// Elements that the figures of sizes are made of: HTML, SVG and labelled fields.
play.elements = (() => {
  "use strict";

  /** An HTML element with attributes, listeners ("onclick") and children. */
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (name in made) made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  /** An SVG element. */
  function drawn(tag, attributes = {}, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  const labelled = (text, control) => element("label", {}, element("span", {}, text), control);

  /** A field for a whole number; `change` gets the number, or "" where there is none. */
  function field(text, value, minimum, change) {
    const read = () => change(input.value === "" ? "" : Number(input.value));
    const input = element("input", { type: "number", min: minimum, step: 1, value, oninput: read });
    return labelled(text, input);
  }

  /** A choice among texts: {value: text}. */
  function choice(text, options, value, change) {
    const entries = Object.entries(options).map(([key, shown]) => element("option", { value: key }, shown));
    const select = element("select", { onchange: () => change(select.value) }, ...entries);
    select.value = value;
    return labelled(text, select);
  }

  return { choice, drawn, element, field, labelled };
})();
