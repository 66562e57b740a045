//! What `nft` lists -> what a person wants to know. The sentences are the rules' own comments, so what is shown is what the
//! kernel does, not what somebody meant to apply.

use super::TableName;

/// Our tables among what `nft list tables` says.
pub fn tables(listing: &str) -> Vec<TableName> {
    listing.lines().filter_map(|line| line.trim().strip_prefix("table inet ")?.parse().ok()).collect()
}

/// What the rules of one table do, in their order, of `nft list table`; each once, with how often it was done where rules
/// count.
pub fn sentences(listing: &str) -> Vec<String> {
    let mut sentences: Vec<(String, Option<u64>)> = Vec::new();
    for line in listing.lines() {
        let Some((rule, comment)) = line.split_once(" comment \"") else { continue };
        let comment = comment.trim_end().trim_end_matches('"');
        let count = packets(rule);
        match sentences.iter_mut().find(|(known, _)| known == comment) {
            Some((_, sum)) => *sum = sum.zip(count).map(|(sum, count)| sum + count).or(*sum).or(count),
            None => sentences.push((comment.to_owned(), count)),
        }
    }
    let told = |(sentence, count): (String, Option<u64>)| match count {
        Some(count) => format!("{sentence} ({count} so far)"),
        None => sentence,
    };
    sentences.into_iter().map(told).collect()
}

fn packets(rule: &str) -> Option<u64> {
    let (_, counted) = rule.split_once("counter packets ")?;
    counted.split(' ').next()?.parse().ok()
}
