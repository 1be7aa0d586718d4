// Sort a table by a click on a column's head; numbers by value, a second click reverses.
document.querySelectorAll("thead button").forEach(function (button) {
  button.addEventListener("click", function () {
    var head = button.parentElement, body = head.closest("table").tBodies[0];
    var column = head.cellIndex, down = head.getAttribute("aria-sort") === "ascending";
    var value = function (row) {
      var text = row.cells[column].textContent.replace(/,/g, "").replace("−", "-").replace("[", "");
      var number = parseFloat(text);
      return isNaN(number) ? text : number;
    };
    head.parentElement.querySelectorAll("th").forEach(function (other) { other.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    Array.from(body.rows).sort(function (a, b) {
      var x = value(a), y = value(b), order = typeof x === typeof y ? (x < y ? -1 : x > y ? 1 : 0) : typeof x === "number" ? -1 : 1;
      return down ? -order : order;
    }).forEach(function (row) { body.appendChild(row); });
  });
});
// One method at a time, by choice; without this script each is folded under its name.
document.querySelectorAll(".choose").forEach(function (line) {
  var choice = line.querySelector("select"), boxes = Array.from(line.parentElement.querySelectorAll(".method"));
  var show = function () {
    boxes.forEach(function (box, i) {
      box.open = i === choice.selectedIndex;
      box.classList.toggle("unchosen", !box.open);
    });
  };
  choice.addEventListener("change", show);
  line.hidden = false;
  show();
});
// Paper cannot be opened by a click: everything that is folded is printed, and folded again afterwards.
var folded = [];
window.addEventListener("beforeprint", function () {
  folded = Array.from(document.querySelectorAll("details:not([open])"));
  folded.forEach(function (box) { box.open = true; });
});
window.addEventListener("afterprint", function () { folded.forEach(function (box) { box.open = false; }); });
