//! Fills `@name@` in the peers' configurations.

use std::fmt::Display;

pub(crate) fn fill(template: &str, values: &[(&str, &dyn Display)]) -> String {
    values.iter().fold(template.to_owned(), |text, (name, value)| {
        text.replace(&format!("@{name}@"), &value.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_is_filled() {
        assert_eq!(fill("a @b@ @c@ @b@", &[("b", &1), ("c", &"two")]), "a 1 two 1");
    }

    #[test]
    fn every_template_is_filled_whole() {
        let templates = [
            include_str!("../peers/nginx-backend.conf"),
            include_str!("../peers/nginx-outbound.conf"),
            include_str!("../peers/nginx-inbound.conf"),
            include_str!("../peers/haproxy-outbound.cfg"),
            include_str!("../peers/haproxy-inbound.cfg"),
            include_str!("../peers/envoy-outbound.yaml"),
            include_str!("../peers/envoy-inbound.yaml"),
            include_str!("../impostor.yaml"),
        ];
        for template in templates {
            let filled = fill(
                template,
                &[
                    ("folder", &"/f"),
                    ("certificates", &"/c"),
                    ("server", &"10.0.0.2"),
                    ("name", &"n"),
                    ("address", &"a"),
                    ("port", &1),
                ],
            );
            // Envoy has a word of its own that looks alike.
            assert!(!filled.replace("\"@type\"", "").contains('@'), "{filled}");
        }
    }
}
