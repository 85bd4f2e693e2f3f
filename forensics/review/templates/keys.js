// J, K and arrows: next and previous. F, A: a label. T: to the class picker. N, P: pages.
const cards = [...document.querySelectorAll(".record")];
let current = Math.max(0, cards.findIndex((card) => "#" + card.id === location.hash));

function choose(index, scroll = "smooth") {
  if (!cards.length) return;
  current = Math.min(Math.max(index, 0), cards.length - 1);
  cards.forEach((card, at) => card.classList.toggle("current", at === current));
  cards[current].scrollIntoView({ block: "center", behavior: scroll });
}

function press(name) {
  cards[current]?.querySelector(`[data-key=${name}]`)?.click();
}

const keys = {
  j: () => choose(current + 1),
  k: () => choose(current - 1),
  arrowdown: () => choose(current + 1),
  arrowup: () => choose(current - 1),
  f: () => press("f"),
  a: () => press("a"),
  t: () => cards[current]?.querySelector("[list]").focus(),
  n: () => document.querySelector("[rel=next]")?.click(),
  p: () => document.querySelector("[rel=prev]")?.click(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const act = keys[event.key.toLowerCase()];
  if (!act) return;
  event.preventDefault();
  if (!event.repeat || /^(j|k|arrow.*)$/i.test(event.key)) act();
});
cards.forEach((card, index) => card.addEventListener("click", () => choose(index, "instant")));
if (location.hash) choose(current, "instant");
else cards[0]?.classList.add("current");
