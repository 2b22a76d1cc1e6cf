//! What a setting is: one constant, from which its flag, its variable and its key in the file are
//! made, and by which its value is asked for.

use super::value::Expected;

/// The text of a value as what it means, or what would have been right.
pub(super) type Parse<T> = fn(&str) -> Result<T, Expected>;

/// What all settings have, whatever their values are.
#[derive(Debug)]
pub(super) struct Key {
    /// The flag without its dashes, and the key in the file.
    pub(super) name: &'static str,
    /// The environment variable.
    pub(super) variable: &'static str,
    /// What `--help` calls the value.
    pub(super) value: &'static str,
    pub(super) default: Option<&'static str>,
    pub(super) help: &'static str,
    /// Whether no complaint may show the value.
    pub(super) hidden: bool,
    /// The setting that names a file with the value, if there is one.
    pub(super) file: Option<&'static Self>,
    /// The flag that says no, and its help, of a setting that takes no value as a flag.
    pub(super) negation: Option<(&'static str, &'static str)>,
}

/// A setting that has a default.
pub(super) struct Setting<T: 'static> {
    pub(super) key: Key,
    pub(super) parse: Parse<T>,
}

/// A setting that need not be given.
pub(super) struct Optional<T: 'static> {
    pub(super) key: Key,
    pub(super) parse: Parse<T>,
}

/// The name of a file that holds the value of another setting, which is what is asked for.
pub(super) struct SecretFile {
    pub(super) key: Key,
}

pub(super) const fn setting<T>(
    name: &'static str,
    variable: &'static str,
    value: &'static str,
    default: &'static str,
    parse: Parse<T>,
    help: &'static str,
) -> Setting<T> {
    Setting { key: Key { default: Some(default), ..key(name, variable, value, help) }, parse }
}

pub(super) const fn optional<T>(
    name: &'static str,
    variable: &'static str,
    value: &'static str,
    parse: Parse<T>,
    help: &'static str,
) -> Optional<T> {
    Optional { key: key(name, variable, value, help), parse }
}

pub(super) const fn secret_file(
    name: &'static str,
    variable: &'static str,
    help: &'static str,
) -> SecretFile {
    SecretFile { key: key(name, variable, "FILE", help) }
}

const fn key(
    name: &'static str,
    variable: &'static str,
    value: &'static str,
    help: &'static str,
) -> Key {
    Key { name, variable, value, default: None, help, hidden: false, file: None, negation: None }
}

impl<T> Setting<T> {
    /// Makes the flag a switch that takes no value, with another flag for `false`.
    pub(super) const fn or_not(mut self, flag: &'static str, help: &'static str) -> Self {
        self.key.negation = Some((flag, help));
        self
    }
}

impl<T> Optional<T> {
    /// Keeps the value out of complaints.
    pub(super) const fn hidden(mut self) -> Self {
        self.key.hidden = true;
        self
    }

    /// Keeps the value out of complaints, and lets it be given in a file.
    pub(super) const fn secret(mut self, file: &'static SecretFile) -> Self {
        self.key.file = Some(&file.key);
        self.hidden()
    }
}

/// Declares constants together with the list of their keys, so that none is left out of it.
macro_rules! listed {
    ($list:ident: $(const $name:ident: $type:ty = $value:expr;)*) => {
        $(pub(in crate::config) const $name: $type = $value;)*

        /// All of them, as `--help` lists them.
        pub(in crate::config) const $list: &[&$crate::config::setting::Key] = &[$(&$name.key),*];
    };
}
pub(super) use listed;
