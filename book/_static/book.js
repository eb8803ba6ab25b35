// What the pages do beside the theme: scrolling that shows and can be reached, animations that rest, drawers that close.
(() => {
  "use strict";

  // --- What is wider than the page: it says so, and the keyboard can scroll it ---------------------------
  const WIDE = [
    ".bd-article pre",
    ".bd-article table",
    ".bd-article .pst-scrollable-table-container",
    ".bd-article mjx-container",
    ".bd-article span.math",
    ".bd-article div.math",
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
        box.removeAttribute("tabindex");
      } else if (box.matches("pre, table, .pst-scrollable-table-container")) {
        box.removeAttribute("tabindex");
      }
      return;
    }
    const at = Math.abs(box.scrollLeft);
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

  // --- Animations: play and pause; at rest where the reader has asked for less motion ---------------------------
  function prepareAnimations() {
    const still = matchMedia("(prefers-reduced-motion: reduce)");
    document.querySelectorAll(".animation").forEach((animation) => {
      const button = animation.querySelector(".animation-button");
      const show = (playing) => {
        animation.classList.toggle("playing", playing);
        animation.classList.toggle("resting", !playing);
        button.textContent = playing ? "Pause" : "Play";
        button.setAttribute("aria-label", playing ? "Pause the animation" : "Play the animation");
      };
      button.hidden = false;
      button.addEventListener("click", () => show(!animation.classList.contains("playing")));
      still.addEventListener("change", () => show(!still.matches));
      show(!still.matches);
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

  function start() {
    prepareAnimations();
    addCloseButtons();
    watchWide();
    const typeset = window.MathJax && window.MathJax.startup && window.MathJax.startup.promise;
    if (typeset) typeset.then(watchWide);
    addEventListener("load", watchWide);
    document.addEventListener("play", watchWide);
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
