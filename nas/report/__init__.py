"""Presentation of results: tables for the terminal, SVG charts, the HTML report and the model cards of exports.

Everything here formats records that the steps of a run have written; nothing is computed or measured. `nas.cli` prints
the tables (`tables`), `nas.pipeline.reports` writes the page (`page.render`), and `nas.pipeline.exports` the cards
(`card.write_card`).
"""
