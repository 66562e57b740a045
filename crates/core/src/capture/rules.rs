//! A plan -> nftables.
//!
//! What happens to a packet, each in a base chain of its own:
//!
//! | chain | hook | what |
//! |---|---|---|
//! | `questions` | filter output, before connection tracking | a cgroup's questions to name servers are tracked apart from others' |
//! | `outbound` | nat output | the first packet of a connection that a captured process opens is led to the sidecar |
//! | `outbound_guard` | filter output | what should have been led there and was not (its socket is older than the rules) is refused |
//! | `inbound` | nat prerouting | the first packet of a connection from another machine is led to the sidecar |
//! | `inbound_guard` | filter input | who comes another way (over loopback, on a connection from before) is refused |
//!
//! Redirection in `output` leads to loopback, in `prerouting` to the address of the interface that the packet came by.
//! Only `output` knows who sends: there skb and socket are together. In `input` the receiver's socket is looked up, the
//! sender is known by the packet's mark alone, which loopback keeps.

use super::{Exempt, MARK, Plan, Scope, Selection, TableName, by_family};

/// Before other tables' `dstnat` (-100), after connection tracking (-200): what is captured is ours, whatever else is
/// translated here, such as the name server of a container.
const NAT_PRIORITY: i32 = -110;

/// Before connection tracking, which is where its zone is chosen.
const RAW_PRIORITY: i32 = -300;

/// The mark of packets among the processes of one cgroup ("MT"), by which they may reach each other.
const MARK_OF_TREE: u32 = 0x4d54;

/// The start of a connection. Packets in the middle of one that is older than the rules must not be led anywhere: the
/// guards judge them.
const SYN: &str = "tcp flags & (fin | syn | rst | ack) == syn";

/// Nobody has this user ID: said so that a rule holds only for packets behind which a process stands. What the kernel
/// sends by itself (an answer to a stray packet, the end of a socket that was closed) has no user, and no mark either.
const ANY_USER: &str = "meta skuid != 4294967295";

const REFUSE_TCP: &str = "meta l4proto tcp counter reject with tcp reset";

/// The whole script: whatever stood in the table is replaced at once, or nothing is.
pub fn rules(plan: &Plan) -> String {
    let mut script = Script { text: removal(&plan.table) };
    script.text.push_str(&format!("table inet {} {{\n", plan.table));
    if let (Scope::Cgroup { .. }, Some(dns)) = (&plan.scope, plan.dns) {
        questions(plan, dns, &mut script);
    }
    outbound(plan, &mut script);
    outbound_guard(plan, &mut script);
    passes_by(plan, &mut script);
    if let Some(port) = plan.inbound {
        inbound(plan, port, &mut script);
    }
    inbound_guard(plan, &mut script);
    script.text.push_str("}\n");
    script.text
}

/// Removes the table, and does nothing where there is none: it is declared first, which makes it if it is missing.
pub fn removal(table: &TableName) -> String {
    format!("table inet {table}\ndelete table inet {table}\n")
}

/// The kernel remembers for half a minute where the questions from a UDP port went, and another program of the host may have
/// that port by then: what it asks would go to the other one's sidecar. So each sidecar's questions are tracked in a zone of
/// their own, by the number of its port.
fn questions(plan: &Plan, dns: u16, script: &mut Script) {
    script.base("questions", &format!("type filter hook output priority {RAW_PRIORITY}"));
    script.rule("meta l4proto != udp accept", "");
    // The sidecar's answers, which find back by the same zone.
    script.rule(&format!("ip saddr 127.0.0.1 udp sport {dns} ct zone set {dns}"), "");
    script.rule(&format!("ip6 saddr ::1 udp sport {dns} ct zone set {dns}"), "");
    script.rule(&format!("{}goto zone_of_questions", in_scope(&plan.scope)), "");
    script.end();

    script.chain("zone_of_questions");
    the_sidecar_passes(plan, script);
    script.rule(&format!("udp dport 53 ct zone set {dns}"), "");
    script.end();
}

fn outbound(plan: &Plan, script: &mut Script) {
    let port = plan.outbound;
    script.base("outbound", &format!("type nat hook output priority {NAT_PRIORITY}"));
    script.rule(&format!("{}goto redirect_outbound", in_scope(&plan.scope)), "");
    script.end();

    script.chain("redirect_outbound");
    the_sidecar_passes(plan, script);
    if let Some(dns) = plan.dns {
        let rule = format!("meta l4proto {{ tcp, udp }} th dport 53 counter redirect to :{dns}");
        script.rule(&rule, &format!("captured: questions to name servers, to port {dns}"));
    }
    let (v4, v6) = by_family(&plan.virtual_ranges);
    // Nobody answers there: `inbound_guard` says so in the kernel's own way. Refused here, in `output`, the kernel would
    // tell the sender with an error at once, but with no ICMP message for addresses whose route is `lo`.
    let refused = format!("counter redirect to :{port}");
    script.for_family(
        "meta l4proto udp ip daddr",
        &v4,
        &refused,
        "refused: UDP to virtual addresses, so that HTTP/3 falls back",
    );
    script.for_family(
        "meta l4proto udp ip6 daddr",
        &v6,
        &refused,
        "refused: UDP to virtual addresses, so that HTTP/3 falls back",
    );
    script.rule("meta l4proto != tcp accept", "passes: everything but TCP");
    script.rule("tcp flags & (fin | syn | rst | ack) != syn accept", "");
    script.rule("jump passes_by", "");
    script.rule(
        &format!("meta l4proto tcp counter redirect to :{port}"),
        &format!("captured: outbound TCP, to port {port}"),
    );
    script.end();
}

fn outbound_guard(plan: &Plan, script: &mut Script) {
    script.base("outbound_guard", "type filter hook output priority filter");
    if let (Scope::Cgroup { .. }, Exempt::User(user)) = (&plan.scope, plan.exempt) {
        // For `inbound_guard`, which can't know the sender's user.
        script.rule(&format!("oif \"lo\" meta skuid {user} meta mark set {MARK:#x}"), "");
    }
    script.rule(&format!("{}goto guard_outbound", in_scope(&plan.scope)), "");
    script.end();

    script.chain("guard_outbound");
    if let Scope::Cgroup { .. } = plan.scope {
        script.rule(&format!("oif \"lo\" meta mark set {MARK_OF_TREE:#x}"), "");
    }
    script.rule("ct direction reply accept", "");
    script.rule("ct status dnat accept", "");
    let (v4, v6) = by_family(&plan.virtual_ranges);
    let comment = "refused: what is not led to the sidecar, to virtual addresses";
    script.for_family("ip daddr", &v4, REFUSE_TCP, comment);
    script.for_family("ip6 daddr", &v6, REFUSE_TCP, comment);
    the_sidecar_passes(plan, script);
    if plan.dns.is_some() {
        script.rule(
            "udp dport 53 counter reject with icmpx port-unreachable",
            "refused: questions from before these rules",
        );
    }
    script.rule("meta l4proto != tcp accept", "");
    script.for_ports("tcp sport", &plan.incoming.exclude_ports, "accept", "");
    script.rule("jump passes_by", "");
    script.rule(&format!("{ANY_USER} {REFUSE_TCP}"), "refused: connections from before these rules");
    script.end();
}

/// What both ways of going out leave alone. `accept` ends the base chain that came here.
fn passes_by(plan: &Plan, script: &mut Script) {
    script.chain("passes_by");
    script.rule("ip daddr 127.0.0.0/8 accept", "passes: loopback");
    script.rule("ip6 daddr ::1 accept", "passes: loopback");
    script.rule("ip daddr 169.254.0.0/16 accept", "passes: link-local");
    script.rule("ip6 daddr fe80::/10 accept", "passes: link-local");
    excluded(&plan.outgoing, "daddr", "outbound", script);
    if plan.outgoing.is_limited() {
        // The lists are about the world; who has a virtual address is of the mesh.
        let (v4, v6) = by_family(&plan.virtual_ranges);
        script.for_family("ip daddr", &v4, "return", "captured: virtual addresses, whatever is included");
        script.for_family("ip6 daddr", &v6, "return", "captured: virtual addresses, whatever is included");
        included(&plan.outgoing, "daddr", "outbound", script);
    }
    script.end();
}

fn inbound(plan: &Plan, port: u16, script: &mut Script) {
    script.base("inbound", &format!("type nat hook prerouting priority {NAT_PRIORITY}"));
    script.rule("iif \"lo\" accept", "");
    script.rule("fib daddr type != local accept", "passes: what is only forwarded here");
    // Led on, they would come back to the sidecar as if they were for the application.
    script.for_ports("tcp dport", &own_ports(plan), "accept", "");
    script.rule(&format!("{}goto redirect_inbound", in_scope(&plan.scope)), "");
    script.end();

    script.chain("redirect_inbound");
    excluded(&plan.incoming, "saddr", "inbound", script);
    included(&plan.incoming, "saddr", "inbound", script);
    script.rule(
        &format!("{SYN} counter redirect to :{port}"),
        &format!("captured: inbound TCP, to port {port}"),
    );
    script.end();
}

fn inbound_guard(plan: &Plan, script: &mut Script) {
    script.base("inbound_guard", "type filter hook input priority filter");
    // Every packet that arrives passes here. What belongs to a connection that was led, or was opened from here, is nearly
    // all of them, and is out of the way first.
    script.rule("ct direction reply accept", "");
    script.rule("meta l4proto tcp ct status dnat accept", "");
    script.for_ports(
        "tcp dport",
        &[Some(plan.outbound), plan.inbound].into_iter().flatten().collect::<Vec<u16>>(),
        "counter reject with tcp reset",
        "refused: who calls the sidecar's captured ports by themselves",
    );
    let port = plan.outbound;
    script.rule(&format!("udp dport {port} ct status dnat counter reject with icmpx port-unreachable"), "");
    if plan.inbound.is_some() {
        script.rule("meta l4proto != tcp accept", "");
        script.rule(&format!("{}goto guard_inbound", in_scope(&plan.scope)), "");
    }
    script.end();
    if plan.inbound.is_none() {
        return;
    }

    script.chain("guard_inbound");
    match plan.scope {
        Scope::Namespace => script.rule("iif \"lo\" accept", "passes: each other, inside"),
        Scope::Cgroup { .. } => {
            // The start is what counts here: nobody in a cgroup has a connection from before it, and the last packets of
            // a socket that is closed carry no mark.
            script.rule("ct state != new accept", "");
            let mark = match plan.exempt {
                Exempt::Mark(mark) => mark,
                Exempt::User(_) => MARK,
            };
            script.rule(&format!("meta mark {mark:#x} accept"), "passes: the sidecar, to the application");
            script.rule(
                &format!("iif \"lo\" meta mark {MARK_OF_TREE:#x} accept"),
                "passes: each other, inside",
            );
        }
    }
    excluded(&plan.incoming, "saddr", "inbound", script);
    included(&plan.incoming, "saddr", "inbound", script);
    script.rule(REFUSE_TCP, "refused: who does not come by the sidecar");
    script.end();
}

fn own_ports(plan: &Plan) -> Vec<u16> {
    [Some(plan.outbound), plan.inbound, plan.dns].into_iter().flatten().collect()
}

/// Matches whose packets the scope is about: the sender's in `output`, the receiver's in `prerouting` and `input`.
fn in_scope(scope: &Scope) -> String {
    match scope {
        Scope::Namespace => String::new(),
        Scope::Cgroup { path, level } => format!("socket cgroupv2 level {level} \"{path}\" "),
    }
}

fn the_sidecar_passes(plan: &Plan, script: &mut Script) {
    match (&plan.scope, plan.exempt) {
        // The sidecar stands outside.
        (Scope::Cgroup { .. }, _) => {}
        (Scope::Namespace, Exempt::Mark(mark)) => {
            script.rule(
                &format!("meta mark {mark:#x} accept"),
                &format!("passes: the sidecar, by its mark {mark:#x}"),
            );
        }
        (Scope::Namespace, Exempt::User(user)) => {
            script.rule(
                &format!("meta skuid {user} accept"),
                &format!("passes: the sidecar, by its user {user}"),
            );
        }
    }
    for user in &plan.exclude_users {
        script.rule(&format!("meta skuid {user} accept"), &format!("passes: processes of user {user}"));
    }
}

fn excluded(selection: &Selection, address: &str, way: &str, script: &mut Script) {
    script.for_ports(
        "tcp dport",
        &selection.exclude_ports,
        "accept",
        &format!("passes: excluded {way} ports"),
    );
    let (v4, v6) = by_family(&selection.exclude_cidrs);
    let comment = format!("passes: excluded {way} networks");
    script.for_family(&format!("ip {address}"), &v4, "accept", &comment);
    script.for_family(&format!("ip6 {address}"), &v6, "accept", &comment);
}

fn included(selection: &Selection, address: &str, way: &str, script: &mut Script) {
    let comment = format!("passes: {way} ports that are not included");
    script.for_ports("tcp dport !=", &selection.include_ports, "accept", &comment);
    if selection.include_cidrs.is_empty() {
        return;
    }
    let (v4, v6) = by_family(&selection.include_cidrs);
    let comment = format!("passes: {way} networks that are not included");
    if v4.is_empty() {
        script.rule("meta nfproto ipv4 accept", &comment);
    }
    if v6.is_empty() {
        script.rule("meta nfproto ipv6 accept", &comment);
    }
    script.for_family(&format!("ip {address} !="), &v4, "accept", &comment);
    script.for_family(&format!("ip6 {address} !="), &v6, "accept", &comment);
}

impl Selection {
    fn is_limited(&self) -> bool {
        !self.include_ports.is_empty() || !self.include_cidrs.is_empty()
    }
}

/// The text, as it grows.
struct Script {
    text: String,
}

impl Script {
    fn base(&mut self, name: &str, hook: &str) {
        self.text.push_str(&format!("\tchain {name} {{\n\t\t{hook}; policy accept;\n"));
    }

    fn chain(&mut self, name: &str) {
        self.text.push_str(&format!("\tchain {name} {{\n"));
    }

    fn end(&mut self) {
        self.text.push_str("\t}\n");
    }

    /// Without a comment, it is nothing that `show` has to say.
    fn rule(&mut self, rule: &str, comment: &str) {
        // The kernel's limit for a comment.
        debug_assert!(comment.len() < 128, "{comment}");
        let comment = if comment.is_empty() { String::new() } else { format!(" comment \"{comment}\"") };
        self.text.push_str(&format!("\t\t{rule}{comment}\n"));
    }

    fn for_ports(&mut self, matches: &str, ports: &[u16], verdict: &str, comment: &str) {
        let mut ports = ports.to_vec();
        ports.sort_unstable();
        ports.dedup();
        self.for_family(matches, &ports, verdict, comment);
    }

    /// Nothing, of nobody. A single element is no set: each packet passes these, and a comparison costs less than a look-up.
    fn for_family<T: ToString>(&mut self, matches: &str, elements: &[T], verdict: &str, comment: &str) {
        let elements: Vec<String> = elements.iter().map(ToString::to_string).collect();
        match &elements[..] {
            [] => {}
            [one] => self.rule(&format!("{matches} {one} {verdict}"), comment),
            _ => self.rule(&format!("{matches} {{ {} }} {verdict}", elements.join(", ")), comment),
        }
    }
}
