//! The programs of the shop.

use clap::ValueEnum;

/// One program of the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    Load,
    Web,
    Cart,
    Catalog,
    Payments,
    Stock,
}

impl Role {
    /// In the order in which a request meets them.
    pub(super) const ALL: [Self; 6] =
        [Self::Load, Self::Web, Self::Cart, Self::Catalog, Self::Payments, Self::Stock];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Web => "web",
            Self::Cart => "cart",
            Self::Catalog => "catalog",
            Self::Payments => "payments",
            Self::Stock => "stock",
        }
    }

    /// A program and its service have the same name.
    pub(super) fn service(self) -> &'static str {
        self.word()
    }
}
