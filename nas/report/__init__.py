"""Presentation of results: tables for the terminal, SVG charts, the HTML report and the model cards of exports.

This package only formats records that the steps of a run have written; it measures nothing. `nas.cli` prints the tables
(`tables`), `nas.pipeline.reports` writes the page (`page.render`), and `nas.pipeline.exports` writes the cards
(`card.write_card`).
"""
