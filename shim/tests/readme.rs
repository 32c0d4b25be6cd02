//! What the README points at is there.

use std::path::Path;

#[test]
fn every_path_in_the_readme_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let text = std::fs::read_to_string(root.join("README.md")).expect("a README");
    let places = ["engine/", "shim/", "c-tests/", "python-tests/"];
    let code = text.split('`').skip(1).step_by(2).filter_map(|code| code.split_whitespace().next());
    let named = code.filter(|word| places.iter().any(|place| word.starts_with(place)));
    let missing: Vec<&str> = named.filter(|path| !root.join(path).exists()).collect();
    assert!(missing.is_empty(), "not there: {missing:?}");
}
