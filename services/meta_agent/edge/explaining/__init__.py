"""Why a job went as it did, from its log: the parts that `edge.explanation` puts together."""
