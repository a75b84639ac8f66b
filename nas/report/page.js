// Tooltips that also work with touch and keyboard. Without this script, browsers show the <title> elements on hover.
(() => {
  const tip = Object.assign(document.createElement("div"), { id: "tip", hidden: true, role: "tooltip" });
  document.body.append(tip);
  for (const title of document.querySelectorAll("svg title")) {
    const mark = title.parentElement;
    mark.dataset.tip = title.textContent;
    if (mark.hasAttribute("tabindex")) {
      mark.setAttribute("role", "img");
      mark.setAttribute("aria-label", title.textContent);
    }
    title.remove(); // otherwise the browser would show a second tooltip
  }
  const show = (mark) => {
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.dataset.tip;
    const box = mark.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const x = Math.min(Math.max(box.x + box.width / 2 - own.width / 2, 8), innerWidth - own.width - 8);
    const above = Math.min(box.y, innerHeight) - own.height - 10;
    tip.style.left = `${x}px`;
    tip.style.top = `${above > 8 ? above : Math.max(box.y, 0) + Math.min(box.height, 40) + 10}px`;
  };
  for (const name of ["pointerover", "pointerdown", "focusin"]) {
    document.addEventListener(name, (event) => show(event.target.closest?.("[data-tip]")));
  }
  document.addEventListener("focusout", () => show());
  document.addEventListener("keydown", (event) => event.key === "Escape" && show());
  // Focusing a mark with the keyboard may scroll the page; the tooltip must follow its mark.
  document.addEventListener("scroll", () => show(document.activeElement.closest("[data-tip]")), { passive: true });
})();
