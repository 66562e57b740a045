//! Holds every flag to its environment twin, and `docs/cli.md` to the help.

use clap::CommandFactory as _;

use super::*;

fn walk(command: &clap::Command, visit: &mut impl FnMut(&clap::Command, &clap::Arg)) {
    for arg in command.get_arguments() {
        visit(command, arg);
    }
    for subcommand in command.get_subcommands() {
        walk(subcommand, visit);
    }
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_flag_has_its_environment_twin() {
    let mut flags = 0;
    walk(&Cli::command(), &mut |command, arg| {
        let Some(long) = arg.get_long().filter(|long| !["help", "version"].contains(long)) else {
            return;
        };
        let twin = format!("MESHWORK_{}", long.to_uppercase().replace('-', "_"));
        assert_eq!(
            arg.get_env().and_then(|env| env.to_str()),
            Some(&*twin),
            "{} --{long}",
            command.get_name()
        );
        flags += 1;
    });
    assert!(flags > 30, "the walk found only {flags} flags");
}

/// The page `docs/cli.md`, made of the help texts.
fn page() -> String {
    let mut page = String::from(
        "# The command line\n\nWhat `--help` says, for reading. Made by the tests of `crates/meshwork/src/cli.rs`: after a \
         change, run them with `MESHWORK_UPDATE_DOCS=1`.\n",
    );
    let mut cli = Cli::command().term_width(100);
    cli.build();
    let mut names = vec![vec![]];
    while let Some(path) = names.pop() {
        let mut command = &mut cli;
        for name in &path {
            command = command.find_subcommand_mut(name).expect("a name that was listed");
        }
        let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help");
        let below: Vec<Vec<String>> =
            shown.map(|sub| [path.clone(), vec![sub.get_name().to_owned()]].concat()).collect();
        names.extend(below.into_iter().rev());
        let title = [vec!["meshwork".to_owned()], path].concat().join(" ");
        page.push_str(&format!(
            "\n## {title}\n\n```text\n{}\n```\n",
            command.render_help().to_string().trim_end()
        ));
    }
    page
}

#[test]
fn the_documentation_says_what_help_says() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    if std::env::var_os("MESHWORK_UPDATE_DOCS").is_some() {
        std::fs::write(&file, page()).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(written == page(), "docs/cli.md is out of date: run the tests once with MESHWORK_UPDATE_DOCS=1");
}

/// What runs in the background is not waited for, so nothing after it in an example may need what it makes. A certificate's
/// renewal makes nothing that is not there already.
#[test]
fn no_example_races_with_itself() {
    let page = page();
    let behind: Vec<&str> = page.lines().filter(|line| line.ends_with('&')).map(str::trim).collect();
    assert_eq!(behind, ["meshwork identity --out /run/web --watch &"]);
}

#[test]
fn every_argument_says_what_it_is() {
    walk(&Cli::command(), &mut |command, arg| {
        assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
    });
}

/// Each unit of `deploy/systemd` with its name.
fn units() -> Vec<(String, String)> {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/systemd");
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let read = |entry: std::fs::DirEntry| {
        (entry.file_name().into_string().unwrap(), std::fs::read_to_string(entry.path()).unwrap())
    };
    let services = entries.map(read).filter(|(name, _)| name.ends_with(".service"));
    services.collect()
}

#[test]
fn every_unit_starts_what_the_command_line_knows() {
    let (mut started, mut set) = (0, 0);
    for (unit, text) in units() {
        for line in text.lines().filter_map(|line| line.strip_prefix("ExecStart=")) {
            // What systemd puts in their places.
            let line =
                line.replace("%i", "cart").replace("${CREDENTIALS_DIRECTORY}", "/run/credentials/cart");
            let line = line.replace("$COMMAND", "/usr/local/bin/cart --listen 8080");
            assert!(!line.contains(['%', '$']), "{unit}: {line}");
            if let Err(error) = Cli::try_parse_from(line.split_whitespace()) {
                panic!("{unit}: {line}\n{error}");
            }
            let name = line.split_whitespace().nth(1).unwrap_or_default();
            let cli = Cli::command();
            let command = cli.find_subcommand(name).unwrap();
            let settings = text.split(|c: char| c != '_' && !c.is_ascii_uppercase());
            for setting in settings.filter(|word| word.starts_with("MESHWORK_")) {
                let is_known = command.get_arguments().any(|arg| arg.get_env() == Some(setting.as_ref()));
                assert!(is_known, "{unit}: `meshwork {name}` has no variable {setting}");
                set += 1;
            }
            started += 1;
        }
    }
    assert!(started == 3 && set > 2, "not all units were found: {started} commands, {set} settings");
}
