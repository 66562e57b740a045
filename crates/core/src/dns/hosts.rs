//! `/etc/hosts`: names to which a machine gave addresses itself.

use std::net::IpAddr;

/// The addresses of a name, in the order in which they stand there (hosts(5)).
pub fn addresses(text: &str, name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|alias| alias.eq_ignore_ascii_case(name)).then_some(address)
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_all_addresses_of_the_lines_that_bear_it() {
        let text = "127.0.0.1 localhost\n# 10.0.0.1 control\n10.0.0.2\tControl.example control # the old one\n\
                    fd00::2 control\nnonsense control\n10.0.0.3 # control\n\n10.0.0.4\n";
        let check = |name: &str, expect: &[&str]| {
            let expect: Vec<IpAddr> = expect.iter().map(|address| address.parse().unwrap()).collect();
            assert_eq!(addresses(text, name), expect, "{name}");
        };
        check("control", &["10.0.0.2", "fd00::2"]);
        check("CONTROL.example.", &["10.0.0.2"]);
        check("localhost", &["127.0.0.1"]);
        check("contro", &[]);
        check("", &[]);
    }
}
