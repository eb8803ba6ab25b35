// What the pages do beside the theme: scrolling that shows and can be reached, animations that rest, drawers that close.
(() => {
  "use strict";

  // --- What is wider than the page: it says so, and the keyboard can scroll it ---------------------------
  const WIDE = [
    ".bd-article pre",
    ".bd-article table",
    ".bd-article .pst-scrollable-table-container",
    ".bd-article .formula",
    ".bd-article .cell_output",
    ".bd-article .cell_output > .output",
  ].join(",");

  function mark(box) {
    const hidden = box.scrollWidth - box.clientWidth;
    const style = getComputedStyle(box);
    const wide = box.clientWidth > 0 && hidden > 1 && ["auto", "scroll"].includes(style.overflowX);
    if (!wide) {
      if (box.hasAttribute("data-scrolls")) {
        box.removeAttribute("data-scrolls");
        box.style.removeProperty("--hidden");
        box.removeAttribute("tabindex");
      } else if (box.matches("pre, table, .pst-scrollable-table-container")) {
        box.removeAttribute("tabindex");
      }
      return;
    }
    const at = Math.abs(box.scrollLeft);
    box.style.setProperty("--hidden", `${hidden}px`);
    box.dataset.scrolls = at < 2 ? "on" : at > hidden - 2 ? "back" : "both";
    box.tabIndex = 0;
  }

  const watch = new ResizeObserver((entries) => entries.forEach((entry) => mark(entry.target)));
  const watched = new WeakSet();

  function watchWide() {
    document.querySelectorAll(WIDE).forEach((box) => {
      mark(box);
      if (watched.has(box)) return;
      watched.add(box);
      watch.observe(box);
      box.addEventListener("scroll", () => mark(box), { passive: true });
    });
  }

  // --- Formulas: the page has their TeX -----------------------------------------------------------------
  function setFormulas() {
    if (!window.katex) return; // a page without formulas does not load it
    document.querySelectorAll(".math:is(span, div)").forEach((box) => {
      const source = [...box.childNodes].find((part) => part.nodeType === Node.TEXT_NODE && part.data.includes("\\"));
      const found = source && source.data.match(/\\([([])([^]*)\\[)\]]/);
      if (!found) return;
      const set = document.createElement("span");
      set.className = "formula";
      katex.render(found[2], set, { displayMode: found[1] === "[", throwOnError: false });
      source.replaceWith(set);
    });
  }

  // --- Animations: a still until it is in view; play and pause; at rest where the reader has asked for less motion
  function prepareAnimations() {
    const still = matchMedia("(prefers-reduced-motion: reduce)");

    function prepare(animation) {
      const button = animation.querySelector(".animation-button");
      let film = null;
      animation.show = (playing) => {
        button.textContent = playing ? "Pause" : "Play";
        button.setAttribute("aria-label", playing ? "Pause the animation" : "Play the animation");
        animation.wanted = playing;
        if (playing && film === null) {
          film = animation.querySelector("img").cloneNode();
          film.removeAttribute("loading");
          film.classList.add("animation-moving");
          film.src = new URL(animation.dataset.film, document.baseURI);
          film.decode().then(
            () => {
              button.before(film);
              animation.classList.toggle("playing", animation.wanted);
            },
            () => (button.hidden = true) // the still stays
          );
        } else animation.classList.toggle("playing", playing && film.isConnected);
      };
      button.textContent = "Play";
      button.setAttribute("aria-label", "Play the animation");
      button.hidden = false;
      button.addEventListener("click", () => animation.show(!animation.wanted));
      still.addEventListener("change", () => animation.show(!still.matches));
    }

    const near = new IntersectionObserver(
      (entries) =>
        entries
          .filter((entry) => entry.isIntersecting)
          .forEach(({ target }) => {
            near.unobserve(target);
            if (target.wanted === undefined) target.show(!still.matches);
          }),
      { rootMargin: "100px" }
    );
    document.querySelectorAll(".animation[data-film]").forEach((animation) => {
      prepare(animation);
      near.observe(animation);
    });
  }

  // --- Drawers: the theme opens them and closes them by Escape or a tap beside; this adds a button --------
  function addCloseButtons() {
    document.querySelectorAll("dialog[id$='sidebar-modal']").forEach((dialog) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "drawer-close btn btn-sm";
      button.textContent = "Close";
      button.addEventListener("click", () => dialog.close());
      dialog.prepend(button);
      // The theme moves all that lies in the drawer back to the sidebar as it closes, this button too.
      dialog.addEventListener("close", () => setTimeout(() => dialog.prepend(button)));
      // A link to a place on this page leads there, past the drawer.
      dialog.addEventListener("click", (event) => {
        if (event.target.closest("a[href^='#']")) dialog.close();
      });
    });
    // The theme names the state of neither button.
    const wide = matchMedia("(min-width: 992px)");
    const sidebar = document.getElementById("pst-primary-sidebar");
    const button = document.querySelector(".primary-toggle");
    if (!sidebar || !button) return;
    const say = () => {
      if (wide.matches) button.setAttribute("aria-expanded", !sidebar.classList.contains("pst-sidebar-hidden"));
      else button.removeAttribute("aria-expanded");
    };
    new MutationObserver(say).observe(sidebar, { attributes: true, attributeFilter: ["class"] });
    wide.addEventListener("change", say);
    say();
  }

  // --- Paper: code that is folded is open, and the page is light; solutions stay folded -------------------
  function preparePrint() {
    let opened = [];
    let theme = null;
    addEventListener("beforeprint", () => {
      opened = [...document.querySelectorAll(".bd-article details:not([open])")];
      opened.forEach((box) => (box.open = true));
      theme = document.documentElement.dataset.theme;
      document.documentElement.dataset.theme = "light";
    });
    addEventListener("afterprint", () => {
      opened.forEach((box) => (box.open = false));
      document.documentElement.dataset.theme = theme;
    });
  }

  function start() {
    setFormulas();
    preparePrint();
    prepareAnimations();
    addCloseButtons();
    watchWide();
    addEventListener("load", watchWide);
    document.addEventListener("play", watchWide);
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
