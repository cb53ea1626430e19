//! docs/formats.md is right: its worked example is the vectors' own.

use super::Vectors;

/// The lines `name = value` of the section "Worked example"; a value goes on in lines that are indented.
fn worked_example(specification: &str) -> Vec<(String, String)> {
    let section =
        specification.split("\n## ").find(|section| section.contains(". Worked example\n")).unwrap();
    let mut lines: Vec<(String, String)> = Vec::new();
    let mut in_block = false;
    for line in section.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block && line.starts_with(' ') {
            lines.last_mut().unwrap().1.push_str(line.trim());
        } else if let Some((name, value)) = line.split_once(" =").filter(|_| in_block) {
            lines.push((name.trim().to_owned(), value.trim().to_owned()));
        } else {
            assert!(!in_block || line.is_empty(), "not a line of the example: {line}");
        }
    }
    lines
}

#[test]
fn the_worked_example_is_complete_and_true() {
    let written = worked_example(include_str!("../../docs/formats.md"));
    let computed: Vec<_> = Vectors::load()
        .example
        .into_iter()
        .map(|(name, value)| (name, value.as_str().unwrap().to_owned()))
        .collect();
    let sorted = |mut lines: Vec<(String, String)>| {
        lines.sort();
        lines
    };
    assert_eq!(sorted(written), sorted(computed));
}
