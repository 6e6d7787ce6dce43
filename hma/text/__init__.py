"""What HMA does with text without spending a token.

outline     a document's sections, by headings, paragraphs and size
items       the questions and bullets of a request
sentences   sentences and passages, aware of Markdown
retrieval   BM25 over passages
grounding   does an answer stand in its source; extracts
tokens      estimates of token counts

Everything here is deterministic and takes time linear in its input.
"""
