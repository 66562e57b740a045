//! `resolv.conf`: the resolvers of a host.

/// Resolvers that are asked: as many as the C libraries read.
pub const SERVERS_MAX: usize = 3;

/// The addresses after `nameserver`, as they are written: one of link-local scope has its interface behind a `%`. Without
/// any it is the host itself (resolv.conf(5)).
pub fn servers(text: &str) -> Vec<String> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "nameserver").then_some(words.next()?.to_owned())
    });
    let servers: Vec<String> = servers.take(SERVERS_MAX).collect();
    if servers.is_empty() { vec!["127.0.0.1".to_owned()] } else { servers }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_the_c_libraries_read_them() {
        let text = "# made by hand\nsearch example.com\nnameserver 10.0.0.2\n  nameserver\tfe80::1%eth0 # why not\n\
                    ;nameserver 10.0.0.3\nnameserver\nnameserver ::1\nnameserver 10.0.0.4\n";
        assert_eq!(servers(text), ["10.0.0.2", "fe80::1%eth0", "::1"]);
    }

    #[test]
    fn without_any_it_is_the_host_itself() {
        assert_eq!(servers(""), ["127.0.0.1"]);
        assert_eq!(servers("search example.com\n"), ["127.0.0.1"]);
    }
}
